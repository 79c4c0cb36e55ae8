"""Pairs JSONL: what is accepted, and what is refused with file and line."""

import json
import os
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from common.jsonl import parse_object
from data.manifest import pairs_from_folder, read_pairs

GOOD = b'{"src": "a_src.jpg", "tar": "a_tar.jpg"}'


@pytest.fixture
def folder(tmp_path):
    for stem in "abc":
        for role in ("src", "tar"):
            (tmp_path / f"{stem}_{role}.jpg").write_bytes(b"any")
    return tmp_path


def write(folder, *lines: bytes, end: bytes = b"\n") -> str:
    path = folder / "pairs.jsonl"
    path.write_bytes(end.join(lines))
    return path


def row(stem: str, **more) -> bytes:
    return json.dumps({"src": f"{stem}_src.jpg", "tar": f"{stem}_tar.jpg", **more}).encode()


def refusal(path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_pairs(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n \n"], ids=["LF", "CRLF", "blank lines"])
def test_line_ends_blank_lines_and_bom_are_accepted(folder, start, end):
    pairs = read_pairs(write(folder, start + row("a"), row("b", group="g"), row("c"), end=end))
    assert [pair.stem for pair in pairs] == ["a_src", "b_src", "c_src"]
    assert [pair.group for pair in pairs] == [None, "g", None]
    assert [pair.line for pair in pairs] == ([1, 4, 7] if end.count(b"\n") == 3 else [1, 2, 3])


def test_unknown_fields_are_kept_and_paths_resolve(folder):
    text = {"camera": {"iso": [100, 200]}, "note": "a\u2028b"}
    pair = read_pairs(write(folder, row("a", **text)))[0]
    assert pair.row["camera"] == text["camera"] and pair.row["note"] == "a\u2028b"
    assert pair.src == "a_src.jpg" and pair.src_path == folder.resolve() / "a_src.jpg"
    assert pair.where == f"{folder / 'pairs.jsonl'}:1"


def plus(field: bytes) -> bytes:
    """A good row with one more field."""
    return GOOD[:-1] + b", " + field + b"}"


BAD_LINES = {
    b'{"src": "a_src.jpg", "tar"': "not JSON",
    GOOD + b" " + GOOD: "more than one JSON value",
    b'["a_src.jpg", "a_tar.jpg"]': "a JSON array",
    b"null": "a JSON null",
    b"// comment": "not JSON",
    b'{"src": "\xff", "tar": "a_tar.jpg"}': "not UTF-8 (byte 0xff at position 10)",
    b"\0\0\0\0": "NUL bytes",
    plus(b'"w": NaN'): "NaN is not JSON",
    plus(b'"w": 1e999'): "too large",
    plus(b'"w": ' + b"9" * 5000): "5000 digits",
    plus(b'"src": "b_src.jpg"'): "'src' stands twice",
    plus(b'"w": "\\ud800"'): "surrogate",
    b'{"a":' * 100_000: "nested too deeply",
    b'{"source": "a_src.jpg", "tar": "a_tar.jpg"}': "no key 'src' (did you mean 'source'?)",
    b'{"SRC": "a_src.jpg", "tar": "a_tar.jpg"}': "no key 'src' (did you mean 'SRC'?)",
    b'{"src": "a_src.jpg", "trg": "a_tar.jpg"}': "no key 'tar' (did you mean 'trg'?)",
    b'{"src": "a_src.jpg", "size": 3}': "no key 'tar'; keys: ['size', 'src']",
    b'{"src": 5, "tar": "a_tar.jpg"}': "src must be a path in quotes, not 5",
    b'{"src": "a_src.jpg", "tar": null}': "tar must be a path in quotes, not null",
    b'{"src": " ", "tar": "a_tar.jpg"}': "src is empty",
    b'{"src": "a\\u0000", "tar": "a_tar.jpg"}': "src holds a NUL character",
    plus(b'"group": 1.5'): "group must be a name or a whole number, not 1.5",
    plus(b'"group": ""'): "group must be a name",
    b'{"src": "none.jpg", "tar": "a_tar.jpg"}': "none.jpg does not exist",
    b'{"src": ".", "tar": "a_tar.jpg"}': "is a folder, not an image",
    b'{"src": "~/a.jpg", "tar": "a_tar.jpg"}': "'~' is not expanded",
    b'{"src": "C:\\\\a.jpg", "tar": "a_tar.jpg"}': "Windows path",
    json.dumps({"src": "x" * 300, "tar": "a_tar.jpg"}).encode(): f"src '{'x' * 100}",
}


@pytest.mark.parametrize("line", BAD_LINES, ids=range(len(BAD_LINES)))
def test_a_bad_line_is_named_with_file_and_number(folder, line):
    path = write(folder, row("b"), b"", line, row("c"))
    message = refusal(path)
    assert f"{path}:3: " in message and BAD_LINES[line] in message
    assert "(1 fault)" in message


def test_all_bad_rows_are_reported_at_once_the_first_twenty_in_full(folder):
    message = refusal(write(folder, *[b"{}" if number % 2 else row("a") for number in range(60)]))
    assert message.count("pairs.jsonl:") == 21 and "more" in message.splitlines()[-1]
    both = refusal(write(folder, b"[]", row("a"), b'{"src": 1, "tar": 2}'))
    assert "pairs.jsonl:1: " in both and both.count("pairs.jsonl:3: ") == 2


def test_a_repeated_row_and_one_src_with_two_tars_are_refused(folder):
    message = refusal(write(folder, row("a"), row("a"), b'{"src": "./a_src.jpg", "tar": "b_tar.jpg"}', row("b")))
    assert "pairs.jsonl:2: the same src and tar as line 1" in message
    assert "pairs.jsonl:3: the same src as line 1 with another tar" in message
    shared = write(folder, row("a"), b'{"src": "b_src.jpg", "tar": "a_tar.jpg"}')
    assert len(read_pairs(shared)) == 2, "one tar with several srcs is normal"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_named(folder, encoding):
    (folder / "pairs.jsonl").write_bytes(GOOD.decode().encode(encoding))
    assert "UTF-16" in refusal(folder / "pairs.jsonl")


def test_missing_file_folder_and_empty_file(folder):
    assert "does not exist" in refusal(folder / "none.jsonl")
    assert "is a folder" in refusal(folder)
    assert "has no rows" in refusal(write(folder, b"", b""))


def test_the_other_unicode_form_of_a_name_is_suggested(folder):
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9.jpg") for form in ("NFC", "NFD"))
    (folder / decomposed).write_bytes(b"any")
    if (folder / composed).exists():
        pytest.skip("this file system treats both forms as one name")
    message = refusal(write(folder, json.dumps({"src": composed, "tar": "a_tar.jpg"}).encode()))
    assert "Unicode form NFD" in message


def test_base_dir_comes_from_the_option_then_the_metadata_then_the_folder(folder, tmp_path_factory):
    splits = tmp_path_factory.mktemp("splits")
    (splits / "fold_1").mkdir()
    for path in (splits / "test.jsonl", splits / "fold_1" / "train.jsonl"):
        path.write_bytes(row("a"))
        assert "a_src.jpg does not exist" in refusal(path)
        assert read_pairs(path, base_dir=folder)[0].src_path == folder.resolve() / "a_src.jpg"
    (splits / "split_metadata.json").write_text(json.dumps({"base_dir": os.path.relpath(folder, splits)}))
    for path in (splits / "test.jsonl", splits / "fold_1" / "train.jsonl"):
        assert read_pairs(path)[0].src_path == folder.resolve() / "a_src.jpg"
    other = splits / "photos"
    other.mkdir()
    (other / "pairs.jsonl").write_bytes(row("a"))
    assert f"{other / 'a_src.jpg'} does not exist" in refusal(other / "pairs.jsonl"), "only fold_K looks one folder up"
    (splits / "split_metadata.json").write_text("{")
    assert "split_metadata.json is not JSON" in refusal(splits / "test.jsonl")
    assert "--base_dir" in refusal(splits / "test.jsonl", base_dir=folder / "none")


def test_absolute_paths_are_normal_and_a_relative_path_that_leaves_warns(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "link").symlink_to(folder)
    rows = [
        {"src": str(folder / "a_src.jpg"), "tar": str(folder / "a_tar.jpg")},
        {"src": "../b_src.jpg", "tar": "link/b_tar.jpg"},
    ]
    path = folder / "sub" / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    warnings = []
    pairs = read_pairs(path, warn=warnings.append)
    assert pairs[0].src_path == folder.resolve() / "a_src.jpg" and pairs[1].tar_path == folder.resolve() / "b_tar.jpg"
    assert len(warnings) == 2 and all(
        f"{path}:2: " in line and "outside the base directory" in line for line in warnings
    )


def test_pairs_of_a_folder_are_found_by_name(folder):
    (folder / "deep").mkdir()
    for name in ("x_src.PNG", "x_tar.tiff", "._x_src.jpg", "notes.txt", "logo.png"):
        (folder / "deep" / name).write_bytes(b"any")
    (folder / "deep" / "loop").symlink_to(folder)
    pairs, _ = pairs_from_folder(folder)
    assert [(pair.src, pair.tar) for pair in pairs] == [
        ("a_src.jpg", "a_tar.jpg"),
        ("b_src.jpg", "b_tar.jpg"),
        ("c_src.jpg", "c_tar.jpg"),
        ("deep/x_src.PNG", "deep/x_tar.tiff"),
    ]
    assert pairs[3].where == str(folder / "deep/x_src.PNG")


def test_unpaired_images_of_a_folder_are_all_listed(folder):
    (folder / "d_src.jpg").write_bytes(b"any")
    (folder / "e_tar.jpg").write_bytes(b"any")
    (folder / "a_src.png").write_bytes(b"any")
    with pytest.raises(InputError) as caught:
        pairs_from_folder(folder)
    message = str(caught.value)
    assert "d_src.jpg: no _tar image" in message and "e_tar.jpg: no _src image" in message
    assert "a_src.jpg, a_src.png, a_tar.jpg: which two are a pair?" in message
    with pytest.raises(InputError, match="missing"):
        pairs_from_folder(folder / "none")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="holds no"):
        pairs_from_folder(folder / "empty")


@settings(max_examples=150)
@given(st.binary(max_size=60))
def test_any_bytes_give_an_object_or_a_value_error(raw):
    try:
        assert isinstance(parse_object(raw), dict)
    except ValueError as error:
        assert str(error)
