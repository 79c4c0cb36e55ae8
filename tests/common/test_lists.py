"""Lists of more than five paths: the first five, and a file with all of them, beside the output."""

import json
import re

import create_data_splits
import train_darkir_cv
from tests.helpers.exits import exit_code, refusal
from tests.helpers.photos import write_pairs
from tests.helpers.train_runs import SMALLEST


def broken_rows(folder, count: int):
    """Rows of which `count` name a photo that is not there."""
    rows = write_pairs(folder, 8)
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    for number, row in enumerate(lines[:count]):
        row["src"] = f"none_{number}.png"
    rows.write_text("".join(json.dumps(row) + "\n" for row in lines))
    return rows


def test_many_faults_go_into_a_file_beside_the_output_and_few_do_not(tmp_path, capsys):
    scripts = {
        create_data_splits: ("--input_jsonl", "--output_dir"),
        train_darkir_cv: ("--train_jsonl", "--output_dir"),
    }
    for script, (rows_flag, output_flag) in scripts.items():
        flags = SMALLEST if script is train_darkir_cv else []
        for count in (5, 6):
            out = tmp_path / f"{script.__name__}_{count}"
            rows = broken_rows(tmp_path / f"photos_{count}", count)
            message = refusal(capsys, script.main, rows_flag, rows, output_flag, out, *flags)
            assert message.count("none_") == 5 and f"({count} faults)" in message
            if count == 5:
                assert not (out / "faults.txt").exists()
                continue
            assert f"  ... and 1 more, all of them in {out / 'faults.txt'}" in message
            listed = (out / "faults.txt").read_text().splitlines()
            assert [re.search(r"none_\d", line)[0] for line in listed] == [f"none_{number}" for number in range(6)]


def test_where_nothing_may_be_written_all_are_shown(tmp_path, capsys):
    rows, out = broken_rows(tmp_path / "photos", 7), tmp_path / "out"
    message = refusal(capsys, create_data_splits.main, "--input_jsonl", rows, "--output_dir", out, "--check")
    assert message.count("none_") == 7 and not out.exists()


def test_rows_that_look_the_same_are_five_lines_and_a_file(tmp_path, capsys):
    for times, folder in ((1, "train"), (2, "val")):
        write_pairs(tmp_path / folder, 7, width=24 * times, height=20 * times)
    argv = ["--train_jsonl", tmp_path / "train" / "pairs.jsonl", "--val_jsonl", tmp_path / "val" / "pairs.jsonl"]
    exit_code(train_darkir_cv.main, *argv, "--output_dir", tmp_path / "run", *SMALLEST)
    shown = capsys.readouterr()
    warned = [line for line in shown.out.splitlines() if "looks the same as" in line]
    path = tmp_path / "run" / "lookalikes.txt"
    assert len(warned) == 5 and f"all of them in {path}" in shown.out
    assert len(path.read_text().splitlines()) == 7
