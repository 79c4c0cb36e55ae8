"""Wrong and odd flag values for make fuzz: any flag of any script with any text."""

import contextlib
import io
import random
import re
from pathlib import Path

from tests.fuzz.case import SCRIPTS, Case
from tests.helpers.train_runs import SMALLEST

NUMBERS = [
    "0",
    "-1",
    "1",
    "3",
    "16",
    "1.5",
    "1e3",
    "0x10",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_0",
    " 7 ",
    "\u0663",
    "1,5",
]
NUMBERS += ["10" * 20, "-" + "9" * 30, "1000000000", "9223372036854775808", "1e-320", "0.5", "--", "-"]
WORDS = ["", " ", "text", "crop", "none", "cpu", "cuda:99", "cuda", "meta", "mps", "cpu:-1", "null", "True", "a\nb"]
WORDS += ["\u00fc \U0001f600", "\udcff"]
PATHS = ["none/none", ".", "..", "/dev/null", "/dev/null/x", "/proc/none/x", "x" * 300, "y/" * 3000, "~", "%s%n"]
PATHS += ["file.txt", "folder"]
# Compiling takes longer than a case may.
LEFT_OUT = {"--help", "--compile"}


def flags_of(script: str) -> list[str]:
    """All flags, from --help."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        SCRIPTS[script].main(["--help"])
    return sorted(set(re.findall(r"^\s+(--\w+)", out.getvalue(), re.MULTILINE)) - LEFT_OUT)


def base_argv(script: str, world: Path, folder: Path) -> list[str]:
    """A command line that works."""
    out = ["--output_dir", str(folder / "out")]
    if script == "split":
        return ["--input_jsonl", str(world / "base" / "pairs.jsonl"), "--test_size", "2", *out]
    if script == "train":
        return ["--train_jsonl", str(world / "own" / "train.jsonl"), *SMALLEST, "--dry_run", *out]
    if script == "evaluate":
        rows = ["--test_jsonl", str(world / "base" / "pairs.jsonl"), "--device", "cpu", "--num_workers", "0"]
        return ["--checkpoint", str(world / "weights.pt"), *rows, *out]
    return ["--fivek_dir", str(world / "fivek"), "--min_resolution", "11", "--workers", "1", *out]


def flag_cases(world: Path, count: int, dice: random.Random, folders) -> list[Case]:
    """`count` cases: a working command line with one or two flags changed, doubled, misspelt or without their value."""
    flags = {script: flags_of(script) for script in SCRIPTS}
    cases = []
    for number in range(count):
        script = list(SCRIPTS)[number % len(SCRIPTS)]
        folder = next(folders)
        (folder / "file.txt").write_text("text")
        (folder / "folder").mkdir()
        argv, kind = base_argv(script, world, folder), dice.choice(["value"] * 8 + ["misspelt", "no value", "stray"])
        flag = dice.choice(flags[script])
        if kind == "value":
            for name in dice.sample(flags[script], dice.choice([1, 1, 2])):
                pool = (
                    PATHS
                    if name.endswith(("dir", "jsonl", "path", "weights", "checkpoint", "resume", "list"))
                    else NUMBERS
                )
                argv += [name, dice.choice(pool if dice.random() < 0.75 else WORDS)]
        elif kind == "misspelt":
            argv += [dice.choice([flag[:-1], flag + "s", flag.upper(), flag.replace("_", "-") + "-", "-x"]), "1"]
        elif kind == "no value":
            argv += [flag]
        else:
            argv.insert(dice.randrange(len(argv)), dice.choice(WORDS + NUMBERS))
        # A place where nothing can be written is no mistake of the input: the system's own word, and exit 1.
        codes = (0, 1, 2) if {"--output_dir"} & set(argv[len(base_argv(script, world, folder)) :]) else (0, 2)
        cases.append(Case(f"flags: {kind}, {script}", script, argv, folder, codes))
    return cases
