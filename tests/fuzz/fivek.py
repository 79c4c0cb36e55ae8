"""Broken and changed photos of a FiveK folder; for make fuzz."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz.case import Case
from tests.fuzz.images import EITHER, REFUSED, plain_pixels


def fivek_cases(world: Path, count: int, dice: random.Random, folders) -> list[Case]:
    """`count` cases of prepare_fivek_robust.py: two sound photos and one whose input or target is broken or changed."""
    kinds = [*REFUSED, *[*EITHER] * 4]
    sound = [path for path in (world / "fivek").rglob("*.png")]
    cases = []
    for number in range(count):
        kind, folder = kinds[number % len(kinds)], next(folders)
        for path in sound:
            place = folder / path.relative_to(world)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
        victim = folder / dice.choice(sound).relative_to(world)
        content = bytearray(victim.read_bytes())
        for _ in range(dice.choice([1, 2, 4])):
            content[dice.randrange(len(content))] = dice.randrange(256)
        victim.unlink()
        victim.write_bytes(REFUSED[kind](dice) if kind in REFUSED else bytes(content))
        argv = ["--fivek_dir", str(folder / "fivek"), "--output_dir", str(folder / "out"), "--min_resolution", "11"]
        argv += ["--max_reject", dice.choice(["1", "0"]), "--workers", "1", "--val_ratio", "0"]
        case = Case(f"FiveK image: {kind}", "fivek", argv, folder, (0, 3))
        case.accepted = _fivek_check(victim)
        cases.append(case)
    return cases


def _fivek_check(victim: Path) -> Callable[[Case], str | None]:
    def check(case: Case) -> str | None:
        rows = [json.loads(line) for line in (case.output / "train.jsonl").read_text("utf-8").splitlines()]
        rejected = (case.output / "rejected.csv").read_text("utf-8")
        if len(rows) + (victim.name in rejected) != 3:
            return f"{len(rows)} pairs, and {victim.name} is {'' if victim.name in rejected else 'not '}in rejected.csv"
        side = "src" if victim.parent.name == "input" else "tar"
        made = next((row[side] for row in rows if victim.stem in row[side]), None)
        if made is None:
            return None
        try:
            wanted = plain_pixels(victim.read_bytes())
        except (OSError, SyntaxError, ValueError) as error:
            return f"accepted, but Pillow says: {error}"
        with Image.open(case.output / made) as image:
            found = np.asarray(image)
        if wanted is None or found.shape != wanted.shape:
            return None
        return (
            None
            if np.abs(found.astype(int) - wanted).mean() < 8
            else "other pixels than those of an independent decode"
        )

    return check
