"""create_data_splits.py --drop: rows are left out by name, and the names are recorded."""

import pytest

from data.splits.files import verify_splits
from tests.helpers.split_runs import refused, rooms_argv, run


def test_a_drop_list_may_hold_names_strings_or_objects(rooms, tmp_path):
    lines = ["\ufeffimages/0_src.png\r", "", '"images/1_src.png"', '{"src": "images/2_src.png", "audit": {}}']
    (tmp_path / "drop.txt").write_text("\n".join(lines), encoding="utf-8")
    assert run(*rooms_argv(rooms, "--drop", tmp_path / "drop.txt")) == 0
    metadata = verify_splits(rooms / "s")
    assert metadata["config"]["drop"] == [f"images/{number}_src.png" for number in range(3)]
    assert metadata["total_pairs"] == 21


def test_a_changed_drop_list_is_another_option_whatever_file_it_is_in(rooms, tmp_path, capsys):
    drop = tmp_path / "drop.txt"
    assert run(*rooms_argv(rooms)) == 0 and "other options" not in capsys.readouterr().out
    drop.write_text("images/0_src.png\n")
    assert run(*rooms_argv(rooms, "--drop", drop)) == 0
    assert "drop None -> 1 names (images/0_src.png)" in capsys.readouterr().out
    assert run(*rooms_argv(rooms, "--drop", drop.rename(tmp_path / "renamed.txt"))) == 0
    assert "other options" not in capsys.readouterr().out
    (tmp_path / "renamed.txt").write_text("images/0_src.png\nimages/5_src.png\n")
    assert run(*rooms_argv(rooms, "--drop", tmp_path / "renamed.txt")) == 0
    assert "drop 1 names (images/0_src.png) -> 2 names (images/0_src.png, ...)" in capsys.readouterr().out


def test_an_image_that_cannot_be_read_can_be_dropped(rooms, tmp_path, capsys):
    (rooms / "photos/images/6_src.png").write_bytes(b"broken")
    (tmp_path / "drop.txt").write_text("images/6_src.png\n")
    assert run(*rooms_argv(rooms, "--drop", tmp_path / "drop.txt")) == 0
    capsys.readouterr()
    assert run(*rooms_argv(rooms, "--check")) == 0, "the split says what it left out"
    assert "made again" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reasons"),
    [
        (None, ["--drop {path} does not exist"]),
        (b"images/0_src.png\nimages/00_src.png\n./images/1_src.png\n", ["{path}:2: ", "{path}:3: ", "(2 faults)"]),
        (b'{"tar": "images/0_tar.png"}\n', ['{path}:1: the object has no "src"']),
        (b'{"src": \n', ["{path}:1: not JSON"]),
        (b'"images/0_src.png\n', ["{path}:1: "]),
        (b"\xff\n", ["{path}:1: not UTF-8"]),
        ("".join(f"images/{n}_src.png\n" for n in range(24)).encode(), ["names all 24 pairs"]),
    ],
)
def test_a_wrong_drop_list_ends_with_2_and_writes_nothing(rooms, tmp_path, capsys, content, reasons):
    path = tmp_path / "drop.txt"
    if content is not None:
        path.write_bytes(content)
    message = refused(capsys, *rooms_argv(rooms, "--drop", path))
    assert all(reason.format(path=path) in message for reason in reasons), message
    assert not (rooms / "s").exists()
