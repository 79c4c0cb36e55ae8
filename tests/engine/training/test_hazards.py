"""What can go wrong outside the code: late signals, dead locks, disks, odd names, locales, links, absurd values."""

import ast
import errno
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

import create_data_splits
import train_darkir_cv
from common import files, signals
from common.files import write_jsonl
from engine.training.updates import loop as updates
from tests.helpers.exits import refusal
from tests.helpers.hazard_runs import evaluate, train
from tests.helpers.leftovers import foreign_files, leave
from tests.helpers.lock_holder import locked_by_another
from tests.helpers.paths import ROOT
from tests.helpers.train_runs import SMALLEST


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_during_pythons_own_shutdown_does_not_hide_the_exit_code(number):
    code = f"""
import os, sys
from common import signals
signals.install()
from common.exits import guarded
class Late:
    def __del__(self, kill=os.kill, own=os.getpid()): kill(own, {int(number)})
late = Late()
sys.exit(guarded(lambda argv: 75)())
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 75


def test_the_lock_of_a_dead_process_is_taken_over_and_said(own_photos, tmp_path, capsys):
    with locked_by_another(tmp_path / "run") as owner:
        assert train(own_photos, tmp_path / "run") == 2
        assert f"in use by process {owner.pid}" in capsys.readouterr().err
    assert train(own_photos, tmp_path / "run") == 0
    assert f"taking over {tmp_path / 'run'} from process {owner.pid}, which died" in capsys.readouterr().out


def test_a_cache_in_the_output_folder_leaves_the_run_its_lock(own_photos, tmp_path, monkeypatch):
    """Closing another descriptor of the same lock file would drop it."""
    real, refused = updates.train_step, []
    code = "import sys; from common.locks import FolderLock; FolderLock(sys.argv[1], print).__enter__()"

    def step(*arguments):
        command = [sys.executable, "-c", code, str(tmp_path / "run")]
        if not refused:
            refused.append(subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True).stderr)
        return real(*arguments)

    monkeypatch.setattr(updates, "train_step", step)
    assert train(own_photos, tmp_path / "run", "--cache", "disk", "--cache_dir", tmp_path / "run") == 0
    assert f"in use by process {os.getpid()}" in refused[0]


def test_a_colleague_of_the_group_can_go_on_with_every_file(own_photos, tmp_path):
    before = os.umask(0o002)
    try:
        assert train(own_photos, tmp_path / "run") == 0
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "run").rglob("*") if path.is_file()} == {0o664}


def test_leftovers_of_a_killed_split_are_cleared(own_photos, tmp_path):
    left = leave(tmp_path / "s" / "test.jsonl", tmp_path / "s" / "fold_2" / "val.jsonl")
    theirs = foreign_files(tmp_path / "s")
    argv = ["--input_jsonl", own_photos / "pairs.jsonl", "--test_size", 2, "--output_dir", tmp_path / "s"]
    assert create_data_splits.main([str(word) for word in argv]) == 0
    assert not any(path.exists() for path in left)
    assert all(path.read_text() == "theirs" for path in theirs)


def test_an_output_folder_in_which_nothing_can_be_written_is_one_message(own_photos, capsys):
    assert train(own_photos, Path("/proc/none/run")) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: --output_dir ") and "/proc/none" in message and message.count("\n") == 1


def test_a_folder_that_refuses_fsync_is_no_failure_but_a_broken_disk_is(tmp_path, monkeypatch):
    real = os.fsync

    def fails_for(folders, code):
        def fsync(handle):
            if Path(f"/proc/self/fd/{handle}").resolve().is_dir() is folders:
                raise OSError(code, os.strerror(code))
            real(handle)

        return fsync

    for code in (errno.EINVAL, errno.EBADF, errno.EIO):  # NFS, SMB, WSL
        monkeypatch.setattr(os, "fsync", fails_for(True, code))
        files.write_text(tmp_path / "a.txt", "whole")
        assert (tmp_path / "a.txt").read_text() == "whole"
    monkeypatch.setattr(os, "fsync", fails_for(False, errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        files.write_text(tmp_path / "a.txt", "other")


@pytest.fixture
def odd_names(own_photos, tmp_path):
    """Photos in a folder with spaces, and letters that no ASCII terminal can show."""
    folder = tmp_path / "\u00fcber \u4e2d\u6587 \U0001f600"
    folder.mkdir()
    rows = [json.loads(line) for line in (own_photos / "pairs.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows[:5]):
        for side in ("src", "tar"):
            name = f"photo {number} caf\u00e9_{side}.png"
            (folder / name).write_bytes((own_photos / row[side]).read_bytes())
            row[side] = name
    write_jsonl(folder / "train.jsonl", rows[:3])
    write_jsonl(folder / "val.jsonl", rows[3:5])
    return folder


@pytest.mark.long
def test_unicode_names_and_spaces_survive_a_bare_terminal(odd_names):
    command = [sys.executable, ROOT / "train_darkir_cv.py", "--train_jsonl", odd_names / "train.jsonl", *SMALLEST]
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    output = odd_names / "run"
    bare |= {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run([*command, "--output_dir", output], env=bare, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert (
        "\U0001f3c6 BEST" in (output / "train.log").read_text(encoding="utf-8") and b"\\U0001f3c6 BEST" in ended.stdout
    )


def test_a_locale_that_cannot_name_the_files_is_told(odd_names):
    command = [sys.executable, ROOT / "create_data_splits.py", "--input_jsonl", odd_names / "train.jsonl"]
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [*command, "--output_dir", odd_names / "s"], env=ascii_only, capture_output=True, check=False
    )
    assert ended.returncode == 2 and ended.stderr.count(b"set LC_ALL=C.UTF-8") == 5 and b"Traceback" not in ended.stderr


def test_the_other_unicode_form_of_a_name_is_suggested_not_taken(own_photos, tmp_path, capsys):
    decomposed = unicodedata.normalize("NFD", "caf\u00e9.png")
    (tmp_path / decomposed).write_bytes((own_photos / "images" / "400_src.png").read_bytes())
    (tmp_path / "tar.png").write_bytes((own_photos / "images" / "400_tar.png").read_bytes())
    write_jsonl(tmp_path / "train.jsonl", [{"src": unicodedata.normalize("NFC", decomposed), "tar": "tar.png"}])
    assert train(tmp_path, tmp_path / "run") == 2
    assert "train.jsonl:1: " in (message := capsys.readouterr().err) and "Unicode form NFD" in message


@pytest.mark.long
def test_links_work_and_a_link_to_itself_is_named(own_photos, tmp_path, capsys):
    (tmp_path / "data").symlink_to(own_photos)
    write_jsonl(
        tmp_path / "train.jsonl", [json.loads(line) for line in (own_photos / "train.jsonl").read_text().splitlines()]
    )
    assert train(tmp_path / "data", tmp_path / "run", "--val_jsonl", tmp_path / "data" / "val.jsonl", "--dry_run") == 0
    (tmp_path / "loop.png").symlink_to("loop.png")
    write_jsonl(tmp_path / "loop.jsonl", [{"src": "loop.png", "tar": "loop.png"}])
    capsys.readouterr()
    assert train(tmp_path, tmp_path / "run", rows="loop.jsonl") == 2
    message = capsys.readouterr().err
    assert "loop.jsonl:1: " in message and "loop.png" in message and "Traceback" not in message


def test_nothing_is_written_beside_the_photos(own_photos, tmp_path):
    def everything():
        return {path: path.stat().st_mtime_ns for path in [own_photos, *own_photos.rglob("*")]}

    before = everything()
    assert train(own_photos, tmp_path / "run") == 0
    assert evaluate(tmp_path / "run" / "checkpoint_best.pt", own_photos / "test.jsonl", tmp_path / "results") == 0
    argv = ["--input_jsonl", own_photos / "pairs.jsonl", "--test_size", 2, "--output_dir", tmp_path / "s"]
    assert create_data_splits.main([str(word) for word in argv]) == 0
    assert everything() == before


LONG = "x" * 10**6


@pytest.mark.parametrize("row", [{"src": LONG, "tar": "y"}, {LONG: 1}, {f"k{number}": 1 for number in range(10**5)}])
def test_a_line_of_megabytes_gives_a_short_message(tmp_path, capsys, row):
    write_jsonl(tmp_path / "train.jsonl", [row])
    assert train(tmp_path, tmp_path / "run") == 2
    message = capsys.readouterr().err
    assert "train.jsonl:1: " in message and len(message) < 2000


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    [
        ("--seed", "9" * 30, "--seed"),
        ("--batch_size", "1000000000", "--batch_size 1000000000"),
        ("--accumulate_steps", "9" * 30, "--accumulate_steps"),
        ("--resolution", "1000000000", "--resolution"),
        ("--val_ratio", "1.5", "--val_ratio"),
        ("--pretrained_path", "x" * 300, "--pretrained_path xxx"),
        ("--output_dir", "y/" * 3000, "--output_dir y/y"),
        ("--output_dir", "/dev/null/run", "--output_dir /dev/null/run"),
    ],
    ids=[f"flags{number}" for number in range(8)],
)
def test_absurd_values_end_with_exit_2(own_photos, tmp_path, capsys, flag, value, named):
    argv = ["--train_jsonl", own_photos / "train.jsonl", "--output_dir", tmp_path / "run", *SMALLEST, flag, value]
    assert named in refusal(capsys, train_darkir_cv.main, *argv)
    assert not list((tmp_path / "run").glob("*.pt"))


def test_images_are_decoded_by_one_library_only():
    sources = [
        *ROOT.glob("*.py"),
        *(path for part in ("darkir", "data", "losses") for path in (ROOT / part).rglob("*.py")),
    ]
    names = {node.module if isinstance(node, ast.ImportFrom) else alias.name
             for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
             if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}  # fmt: skip
    assert "PIL" in names and not {
        name for name in names if name and name.startswith(("torchvision.io", "cv2", "imageio"))
    }
