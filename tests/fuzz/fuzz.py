#!/usr/bin/env python3
"""Throws 1,000 bad and odd inputs at the scripts; each must end with the right result, or with exit 2 and the file's name.

make fuzz, or: python tests/fuzz/fuzz.py. Rows, images, checkpoints, edited splits and flags come from a seed; most cases run
through main(argv) in this process, some as real processes. Prints a table of kinds and outcomes; ends with 1 when a case gave a
traceback, accepted something wrong in silence, ran code of its input or left a file half-written.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import collections
import contextlib
import io
import itertools
import json
import random
import resource
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch
from PIL import Image

import create_data_splits
import train_darkir_cv
from common import signals
from common.files import write_jsonl
from tests.fuzz.case import SCRIPTS, Case, Outcome, clear, run_case
from tests.fuzz.checkpoints import checkpoint_cases
from tests.fuzz.fivek import fivek_cases
from tests.fuzz.flags import flag_cases
from tests.fuzz.images import image_cases
from tests.fuzz.rows import row_cases
from tests.fuzz.splits import split_cases
from tests.helpers.photos import darker, scene, write_pairs
from tests.helpers.train_runs import SMALLEST

ADDRESS_SPACE = 12 * 2**30  # a case that asks for more memory than this must fail, and not take the machine down
SHARES = {"rows": 0.37, "images": 0.25, "checkpoints": 0.16, "splits": 0.03, "flags": 0.16, "fivek": 0.03}


def make_world(folder: Path) -> None:
    """Good inputs, which the cases damage: photos, a split, weights, and the state of an unfinished run on other photos."""
    base, more = folder / "base", folder / "more"
    write_pairs(base, 8, width=20, height=14)
    write_pairs(more, 4, first_seed=60, width=20, height=14)
    for side in ("src", "tar"):
        for number, name in ((60, f"odd/cafe\u0301_{side}.png"), (61, f"odd/a b_\u00fc\u4e2d\U0001f600_{side}.png")):
            (base / name).parent.mkdir(exist_ok=True)
            shutil.copy(more / "images" / f"{number:03d}_{side}.png", base / name)
    shutil.copy(more / "images" / "063_tar.png", base / "images" / "extra_tar.png")
    (base / "links").mkdir()
    for link, target in (("src.png", more / "images" / "062_src.png"), ("folder", more / "images"), ("loop.png", "loop.png"),
                         ("broken.png", "none.png"), ("zero.png", "/dev/zero")):  # fmt: skip
        (base / "links" / link).symlink_to(target)
    os.mkfifo(base / "links" / "pipe.png")
    os.mknod(base / "links" / "socket.png", stat.S_IFSOCK | 0o600)
    for number, side, name in itertools.product(range(3), ("src", "tar"), ("a%04d-photo.png",)):
        path = folder / "fivek" / {"src": "input", "tar": "output_expert_C"}[side] / (name % number)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = scene(90 + number, 40, 30)
        Image.fromarray(darker(picture) if side == "src" else picture).save(path)
    argv = ["--input_jsonl", base / "pairs.jsonl", "--test_size", 2, "--n_folds", 2, "--output_dir", folder / "split"]
    _must_work(create_data_splits.main, argv)
    _make_checkpoints(folder)


def _make_checkpoints(folder: Path) -> None:
    own = folder / "own"
    rows = [
        json.loads(line) for line in write_pairs(own, 6, first_seed=80, width=20, height=14).read_text().splitlines()
    ]
    write_jsonl(own / "train.jsonl", rows[:4])
    write_jsonl(own / "val.jsonl", rows[4:])
    argv = ["--train_jsonl", own / "train.jsonl", *SMALLEST, "--output_dir"]
    _must_work(train_darkir_cv.main, [*argv, folder / "run"])
    asked, signals.requested = signals.requested, lambda: "SIGTERM"  # after the first update
    _must_work(train_darkir_cv.main, [*argv, folder / "stopped"], wanted=75)
    signals.requested = asked
    shutil.copy(folder / "run" / "checkpoint_best.pt", folder / "weights.pt")
    shutil.copy(folder / "stopped" / "checkpoint_last.pt", folder / "state.pt")


def _must_work(main, argv: list, wanted: int = 0) -> None:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main([str(argument) for argument in argv])
    if code != wanted:
        raise SystemExit(f"the sound inputs could not be made: exit {code}\n{said.getvalue()}")


def case_folders(work: Path) -> Iterator[Path]:
    """A new empty folder for every case."""
    for number in itertools.count():
        folder = work / "cases" / str(number)
        folder.mkdir(parents=True)
        yield folder


def make_cases(world: Path, count: int, dice: random.Random) -> list[Case]:
    """`count` cases of all kinds, in random order."""
    folders = case_folders(world)
    number = {name: round(count * share) for name, share in SHARES.items()}
    number["rows"] += count - sum(number.values())
    if "fivek" not in SCRIPTS:
        number["rows"], number["fivek"] = number["rows"] + number["fivek"], 0
    cases = row_cases(world / "base", number["rows"], dice, folders)
    cases += image_cases(world / "base", number["images"], dice, folders)
    cases += checkpoint_cases(world, number["checkpoints"], dice, folders)
    cases += split_cases(world, number["splits"], dice, folders)
    cases += flag_cases(world, number["flags"], dice, folders)
    cases += fivek_cases(world, number["fivek"], dice, folders) if number["fivek"] else []
    dice.shuffle(cases)
    return cases


def report(outcomes: list[tuple[Case, Outcome]], processes: int, seconds: float) -> int:
    """Print the table and every fault; 1 when there is one."""
    codes = sorted({outcome.code for _, outcome in outcomes})
    table: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for case, outcome in outcomes:
        table[case.kind][outcome.code] += 1
    print(f"{'kind of input':56s}" + "".join(f"{f'exit {code}':>8s}" for code in codes) + "   scripts")
    for kind in sorted(table):
        scripts = ", ".join(sorted({case.script for case, _ in outcomes if case.kind == kind}))
        print(f"{kind:56s}" + "".join(f"{table[kind][code] or '':>8}" for code in codes) + f"   {scripts}")
    faulty = [(case, outcome) for case, outcome in outcomes if outcome.faults]
    for case, outcome in faulty[:20]:
        print(f"FAULT: {case.kind}, {case.script}: {'; '.join(outcome.faults)}\n  {case.argv}\n{outcome.err[-1500:]}")
    total = collections.Counter(outcome.code for _, outcome in outcomes)
    print(f"{len(outcomes)} inputs ({processes} as real processes) in {seconds:.0f} s: "
          + ", ".join(f"{total[code]} exit {code}" for code in codes))  # fmt: skip
    words = ("traceback", "silently wrong", "half-written", "torn", "code of the input", "exit code", "mention")
    counts = {word: sum(any(word in fault for fault in outcome.faults) for _, outcome in outcomes) for word in words}
    print(f"{len(faulty)} faults: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
    return 1 if faulty else 0


def main() -> int:
    """Run the fuzz; 0 when no case had a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="inputs")
    parser.add_argument("--processes", type=int, default=40, help="how many of them as real processes")
    parser.add_argument("--seed", type=int, default=1, help="of all inputs")
    parser.add_argument("--keep", type=Path, help="folder in which inputs and outputs are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Pillow's remarks on broken files
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="fuzz_")
        if options.keep is None
        else contextlib.nullcontext(options.keep) as work
    ):
        make_world(Path(work))
        outcomes = []
        cases = make_cases(Path(work), options.cases, random.Random(options.seed))
        for number, case in enumerate(cases):
            outcomes.append((case, run_case(case, as_process=number < options.processes)))
            if options.keep is None:
                clear(case)
    return report(outcomes, min(options.processes, len(cases)), time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
