"""prepare_fivek_robust.py as a user meets it: flags, exit codes, log lines, the script itself."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

import prepare_fivek_robust
from common.options import add_options, make_parser
from data.fivek import prepare
from data.fivek.config import FivekConfig
from tests.helpers.fivek_folder import SMALL, encoded, keys, put, put_pairs, record, refused, run, source
from tests.helpers.fivek_tree import build_tree
from tests.helpers.photos import write_pairs

SCRIPT = Path(prepare_fivek_robust.__file__)
FLAGS = [
    "--fivek_dir",
    "--output_dir",
    "--expert",
    "--val_ratio",
    "--min_resolution",
    "--max_resolution",
    "--jpeg_quality",
    "--workers",
    "--limit",
    "--max_reject",
    "--seed",
    "--assume_profile",
    "--auto_wb",
    "--prefer",
    "--val_list",
    "--split_by",
    "--verify",
]


def test_the_flags_and_their_defaults_are_these():
    parser = make_parser("")
    add_options(parser, FivekConfig, "FiveK")
    assert [
        option for action in parser._actions for option in action.option_strings if option not in ("-h", "--help")
    ] == FLAGS
    defaults = vars(parser.parse_args([]))
    assert defaults == {
        "fivek_dir": "fivek_dataset",
        "output_dir": "fivek_processed",
        "expert": "C",
        "val_ratio": 0.05,
        "min_resolution": 256,
        "max_resolution": 2048,
        "jpeg_quality": 95,
        "workers": None,
        "limit": None,
        "max_reject": 0.02,
        "seed": 42,
        "assume_profile": "srgb",
        "auto_wb": False,
        "prefer": None,
        "val_list": None,
        "split_by": "id",
        "verify": False,
    }


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--val_ratio", "1"), "--val_ratio must be at least 0 and below 1, not 1.0"),
        (("--val_ratio", "nan"), "--val_ratio"),
        (("--min_resolution", "5"), "--min_resolution must be 11 or more"),
        (
            ("--max_resolution", "100", "--min_resolution", "200"),
            "--max_resolution must be --min_resolution (200) or more",
        ),
        (("--jpeg_quality", "0"), "--jpeg_quality"),
        (("--workers", "0"), "--workers"),
        (("--limit", "0"), "--limit"),
        (("--max_reject", "2"), "--max_reject"),
        (("--expert", "F"), "--expert"),
        (("--work", "2"), "--work"),
    ],
)
def test_wrong_flags_end_with_2_and_are_named(capsys, flags, named):
    assert named in refused(capsys, *flags)


def test_the_script_runs_from_anywhere_and_leaves_exactly_the_named_files(tmp_path):
    put_pairs(tmp_path / "fivek_dataset", range(1, 31))
    ended = subprocess.run([sys.executable, SCRIPT, *SMALL], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0 and ended.stderr == ""
    output = tmp_path / "fivek_processed"
    names = {"images", "meta", "train.jsonl", "val.jsonl", "dataset_metadata.json", "rejected.csv", ".lock"}
    assert {path.name for path in output.iterdir()} == names
    wanted = {f"a{number:04d}_{role}.jpg" for number in range(1, 31) for role in ("src", "tar")}
    assert {path.name for path in (output / "images").iterdir()} == wanted
    assert len(keys(output, "train")) + len(keys(output, "val")) == 30


def test_the_log_has_one_line_a_hundred_pairs_and_tells_what_matters(tmp_path, monkeypatch, capsys):
    put_pairs(tmp_path / "fivek", range(1, 26))
    put(tmp_path / "fivek", "input/a0007-photo 1.jpeg", b"")
    put(tmp_path / "fivek", "raw/a0900-x.dng")
    assert prepare.LINE_EVERY == 100
    monkeypatch.setattr(prepare, "LINE_EVERY", 10)
    assert run(tmp_path / "fivek", tmp_path / "out") == 3
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    progress = [line for line in lines if line.startswith("FiveK ")]
    assert [
        re.match(r"FiveK (\d+)/25: [\d.]+ pairs/s, \d\d:\d\d:\d\d left, \d rejected", line)[1] for line in progress
    ] == [
        "10",
        "20",
        "25",
    ]
    text = "\n".join(lines)
    for part in (
        "25 photos with input and rendition by expert C",
        "Not used: 1 unmatched_input",
        "Done before: 0. To make: 25",
        "rejected a0007: input: the file is empty",
        "Pairs: 24, 1 rejected (4.0 % rejected, 2 % allowed)",
        "Colour: targets are",
        "Licences: unknown 24; research only",
    ):
        assert part in text
    assert captured.err == "", "bars are for terminals"


def test_a_terminal_gets_a_bar_with_rate_and_time_left(tmp_path):
    put_pairs(tmp_path / "fivek", range(1, 31))
    command = [sys.executable, SCRIPT, "--fivek_dir", tmp_path / "fivek", "--output_dir", tmp_path / "out", *SMALL]
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 40, 100, 0, 0))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        lines = process.stdout.read().decode()
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert re.search(r"FiveK: 100%.*30/30 \[\d\d:\d\d<\d\d:\d\d,.*pair/s\]", shown)
    assert "pairs/s" not in lines and process.returncode == 0


def test_a_part_without_pairs_has_no_file_and_the_log_says_so(tmp_path, capsys):
    put_pairs(tmp_path / "fivek", [2, 3])
    assert run(tmp_path / "fivek", tmp_path / "out", "--val_ratio", "0") == 0
    assert "no pair fell to val" in capsys.readouterr().out and not (tmp_path / "out" / "val.jsonl").exists()


def test_a_weak_match_is_kept_and_named(tmp_path, capsys):
    put_pairs(tmp_path / "fivek", [2, 3])
    shifted = np.roll(source(3), 2, axis=1)
    put(tmp_path / "fivek", "input/a0003-photo 0.jpeg", encoded(shifted))
    assert run(tmp_path / "fivek", tmp_path / "out") == 0
    assert 0.5 < record(tmp_path / "out", "a0003")["correlation"] < 0.75
    assert "1 pairs match only weakly, look at them: a0003" in capsys.readouterr().out


def test_nothing_but_rejects_ends_with_3_whatever_is_allowed(tmp_path):
    put_pairs(tmp_path / "fivek", [1])
    put(tmp_path / "fivek", "input/a0001-photo 1.jpeg", b"")
    assert run(tmp_path / "fivek", tmp_path / "out", "--max_reject", "1") == 3
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_generic_targets_mixed_inputs_and_dull_colours_are_mentioned(tmp_path, capsys):
    folder = put_pairs(tmp_path / "fivek", range(1, 4))
    (folder / "output_expert_C").rename(folder / "output")
    assert run(folder, tmp_path / "out") == 0
    assert "Taken as expert C: 3 targets in folders that name no expert" in capsys.readouterr().out
    for path in (folder / "output").iterdir():
        put(folder, f"output/{path.name}", (folder / "input" / path.name).read_bytes())
    assert run(folder, tmp_path / "out") == 0
    assert "--assume_profile prophoto" in capsys.readouterr().out


def test_raw_files_without_rawpy_end_with_2_before_anything_is_written(tmp_path, monkeypatch, capsys):
    put(tmp_path, "fivek/raw/a0001-x.dng")
    put(tmp_path, "fivek/c/a0001-x.tif")
    monkeypatch.setattr(prepare, "has_rawpy", lambda: False)
    assert run(tmp_path / "fivek", tmp_path / "out") == 2
    assert "pip install -r requirements-fivek.txt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_fivek_shaped_tree_of_raw_files_and_renditions_becomes_pairs(tmp_path):
    pytest.importorskip("rawpy")
    pytest.importorskip("tifffile")
    pairs = write_pairs(tmp_path / "photos", 9, width=64, height=48)
    assert build_tree(pairs, tmp_path / "fivek", dng_every=3) == 9
    assert run(tmp_path / "fivek", tmp_path / "out", "--workers", "2", "--val_ratio", "0.3") == 0
    assert len(keys(tmp_path / "out", "train") | keys(tmp_path / "out", "val")) == 9
