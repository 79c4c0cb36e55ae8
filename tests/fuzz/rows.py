"""Bad and odd pairs files for make fuzz: each case is one JSONL that create_data_splits.py, training or evaluation reads."""

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path

from tests.fuzz.case import Case, split_case

Lines = list[bytes]


def _insert(make: Callable[[random.Random, dict], bytes]) -> Callable:
    """A kind that puts one bad line, made from a good row, at a random place; the refusal must name its line."""

    def change(dice: random.Random, lines: Lines) -> tuple[bytes, str]:
        place = dice.randrange(len(lines) + 1)
        bad = make(dice, json.loads(dice.choice(lines)))
        changed = [*lines[:place], bad, *lines[place:]]
        return b"\n".join(changed), f"pairs.jsonl:{place + 1}"

    return change


def _encoded(row: object) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode()


def _with(key: str, value: object) -> Callable[[random.Random, dict], bytes]:
    return lambda dice, row: _encoded({**row, key: value})


def _text(**values: str) -> Callable[[random.Random, dict], bytes]:
    """Appends `, "key": raw text` to the row: for values that json.dumps would not write."""
    more = "".join(f', "{key}": {value}' for key, value in values.items()).encode()
    return lambda dice, row: _encoded(row)[:-1] + more + b"}"


# Must be refused with the line's number.
REFUSED = {
    "cut line": lambda dice, row: _encoded(row)[: dice.randrange(1, len(_encoded(row)) - 1)],
    "two objects in a line": lambda dice, row: _encoded(row) + b" " + _encoded(row),
    "array": lambda dice, row: _encoded(list(row.values())),
    "null, number, text": lambda dice, row: dice.choice([b"null", b"17", b'"text"', b"true", b"-0.5e3"]),
    "comment": lambda dice, row: dice.choice([b"# comment", b"// comment", b"/* */ {}"]),
    "single quotes": lambda dice, row: str(row).encode(),
    "trailing comma": lambda dice, row: _encoded(row)[:-1] + b",}",
    "not UTF-8": lambda dice, row: _encoded(row)[:-1] + b', "note": "\xe9\xff"}',
    "NUL bytes": lambda dice, row: b"\0" * dice.randrange(1, 50),
    "NaN": _text(score="NaN"),
    "Infinity": _text(score="-Infinity"),
    "number too large": _text(score="1e999"),
    "5000 digits": _text(score="9" * 5000),
    "key twice": _text(src='"elsewhere.png"'),
    "half a surrogate pair": _text(note='"\\ud83d"'),
    "deep nesting": lambda dice, row: b'{"a":' * dice.randrange(2000, 100_000),
    "deep nesting, closed": lambda dice, row: b'{"src": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "key missing": lambda dice, row: _encoded({key: row[key] for key in [dice.choice(["src", "tar"])]}),
    "key misspelt": lambda dice, row: _encoded({dice.choice(["source", "SRC", "scr"]): row["src"], "tar": row["tar"]}),
    "wrong type": lambda dice, row: _encoded(
        {**row, dice.choice(["src", "tar"]): dice.choice([5, 0.5, None, True, [], {}])}
    ),
    "empty path": lambda dice, row: _encoded({**row, "src": dice.choice(["", " ", "\t"])}),
    "NUL in a path": _with("src", "a\0b.png"),
    "path too long": lambda dice, row: _encoded({**row, "tar": "x" * dice.choice([300, 5000])}),
    "line of 20 MB": lambda dice, row: _encoded({**row, dice.choice(["src", "more"]): "x" * 20_000_000})[
        : -dice.choice([2, 3])
    ],
    "home folder": _with("src", "~/photo.png"),
    "Windows path": _with("tar", "C:\\photos\\a.png"),
    "missing file": _with("src", "gone/none.png"),
    "folder as image": _with("tar", "."),
    "file as folder": lambda dice, row: _encoded({**row, "src": row["src"] + "/x.png"}),
    "link to itself": _with("src", "links/loop.png"),
    "broken link": _with("tar", "links/broken.png"),
    "FIFO, socket or device": lambda dice, row: _encoded(
        {**row, "src": dice.choice(["links/pipe.png", "links/socket.png", "links/zero.png"])}
    ),
    "group of a wrong type": lambda dice, row: _encoded({**row, "group": dice.choice([1.5, [], {}, True, ""])}),
    "row twice": lambda dice, row: _encoded(row),
    "src with two tars": lambda dice, row: _encoded({**row, "tar": "images/extra_tar.png"}),
    "other Unicode form": _with("src", unicodedata.normalize("NFC", "odd/cafe\u0301_src.png")),
}
# A repeated row may be the earlier or the later one of the two; NUL bytes at the start make the whole file suspect.
UNNUMBERED = {"row twice", "src with two tars", "NUL bytes"}


def _json_dressing(dice: random.Random, lines: Lines) -> bytes:
    """The same rows in another JSON spelling."""
    rows = [json.loads(line) for line in lines]
    spelling = {"ensure_ascii": dice.choice([True, False]), "separators": dice.choice([(",", ":"), (" ,  ", "\t: ")])}
    return b"\n".join(json.dumps(row, **spelling).encode() for row in rows)


# Must be accepted, with every row in the output.
ACCEPTED = {
    "BOM": lambda dice, lines: b"\xef\xbb\xbf" + b"\n".join(lines),
    "CRLF": lambda dice, lines: b"\r\n".join(lines) + b"\r\n",
    "blank lines": lambda dice, lines: dice.choice([b"\n\n", b"\n \t\n", b"\n\r\n"]).join(lines) + b"\n\n",
    "no final newline": lambda dice, lines: b"\n".join(lines),
    "other JSON spelling": _json_dressing,
    "unknown fields": lambda dice, lines: b"\n".join(
        _encoded({**json.loads(line), "note": dice.choice(["a\u2028b", {"x": [1, None]}, "\U0001f600", -0.25, "1e5"])})
        for line in lines
    ),
    "groups": lambda dice, lines: b"\n".join(
        _encoded({**json.loads(line), "group": [number, f"room {number}"][number % 2]})
        for number, line in enumerate(lines)
    ),
    "unicode and spaces in names": lambda dice, lines: b"\n".join(
        [
            *lines,
            _encoded(
                {"src": "odd/a b_\u00fc\u4e2d\U0001f600_src.png", "tar": "odd/a b_\u00fc\u4e2d\U0001f600_tar.png"}
            ),
        ]
    ),
    "decomposed names": lambda dice, lines: b"\n".join(
        [*lines, _encoded({"src": "odd/cafe\u0301_src.png", "tar": "odd/cafe\u0301_tar.png"})]
    ),
    "links": lambda dice, lines: b"\n".join(
        [*lines, _encoded({"src": "links/src.png", "tar": "links/folder/062_tar.png"})]
    ),
    "dots and slashes": lambda dice, lines: b"\n".join(
        line.replace(b"images/", b"./images/../images//") for line in lines
    ),
    "base directory left": lambda dice, lines: b"\n".join(
        line.replace(b"images/", b"images/../../base/images/") for line in lines
    ),
    "rows in another order": lambda dice, lines: b"\n".join(dice.sample(lines, len(lines))),
}


def _flipped(dice: random.Random, text: bytes) -> bytes:
    changed = bytearray(text)
    for _ in range(dice.choice([1, 1, 1, 2, 5])):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def _spliced(dice: random.Random, text: bytes) -> bytes:
    start, stop = sorted(dice.randrange(len(text)) for _ in range(2))
    return text[:start] + dice.choice([b"", text[start:stop] * 2, dice.randbytes(20)]) + text[stop:]


# May go either way: what is accepted is compared with an independent reading.
EITHER = {
    "bytes flipped": _flipped,
    "bytes inserted, removed, doubled": _spliced,
    "cut anywhere": lambda dice, text: text[: dice.randrange(len(text))],
    "UTF-16 or UTF-32": lambda dice, text: text.decode().encode(
        dice.choice(["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    ),
    "any bytes": lambda dice, text: dice.randbytes(dice.randrange(300)),
}


def row_cases(base: Path, count: int, dice: random.Random, folders) -> list[Case]:
    """`count` cases over the photos below `base`, which has `pairs.jsonl`, `odd/` and `links/`."""
    lines = (base / "pairs.jsonl").read_bytes().splitlines()
    kinds = [*REFUSED, *ACCEPTED, *EITHER, *EITHER, *EITHER]
    cases = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        names: tuple[str, ...] = ("pairs.jsonl",)
        codes: tuple[int, ...] = (0, 2)
        if kind in REFUSED:
            text, where = _insert(REFUSED[kind])(dice, lines)
            names, codes = (("pairs.jsonl",) if kind in UNNUMBERED else (where,)), (2,)
        elif kind in ACCEPTED:
            text, codes = ACCEPTED[kind](dice, lines), (0,)
        else:
            # What is left may be sound rows, but too few of them for a split.
            text, names = EITHER[kind](dice, b"\n".join(lines) + b"\n"), ()
        folder = next(folders)
        (folder / "pairs.jsonl").write_bytes(text)
        case = split_case(f"rows: {kind}", base, folder, codes, names)
        case.accepted = rows_are_all_there
        cases.append(as_training(case, base) if codes == (2,) and number % 4 == 1 else case)
    return cases


def as_training(case: Case, base: Path) -> Case:
    """The same bad rows, as the training rows of a single run."""
    rows = ["--train_jsonl", str(case.folder / "pairs.jsonl"), "--base_dir", str(base)]
    argv = [*rows, "--model_size", "tiny", "--resolution", "16", "--lambda_vgg", "0", "--output_dir", str(case.output)]
    return Case(case.kind, "train", argv, case.folder, case.codes, case.names)


def rows_are_all_there(case: Case) -> str | None:
    """Compare the rows of the written sets with an independent reading of the input."""
    text = (case.folder / "pairs.jsonl").read_bytes().removeprefix(b"\xef\xbb\xbf")
    wanted = [json.loads(line) for line in text.decode("utf-8").split("\n") if line.strip()]
    names = ("test.jsonl", "fold_1/train.jsonl", "fold_1/val.jsonl")
    written = [
        json.loads(line) for name in names for line in (case.output / name).read_text("utf-8").split("\n") if line
    ]
    if len(wanted) != len(written):
        return f"{len(wanted)} rows read, {len(written)} written"
    by_source = {row["src"]: row for row in written}
    for row in wanted:
        found = by_source.get(row["src"], {})
        if any(found.get(key) != value for key, value in row.items()):
            return f"row {row} became {found}"
    return None
