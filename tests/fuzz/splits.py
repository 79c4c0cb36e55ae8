"""Split folders in which somebody changed a file after they were proved; for make fuzz."""

import random
import shutil
from pathlib import Path

from tests.fuzz.case import Case
from tests.fuzz.checkpoints import flip_bits
from tests.helpers.train_runs import SMALLEST


def split_cases(world: Path, count: int, dice: random.Random, folders) -> list[Case]:
    """Split folders in which somebody changed a file after they were proved."""
    files = ["test.jsonl", *(f"fold_{fold}/{part}.jsonl" for fold in (1, 2) for part in ("train", "val"))]
    cases = []
    for _ in range(count):
        folder = next(folders)
        shutil.copytree(world / "split", folder / "split")
        name = dice.choice([*files, *files, "split_metadata.json"])
        path = folder / "split" / name
        lines = path.read_bytes().splitlines(keepends=True)
        edit = dice.choice(["line lost", "line twice", "bytes changed", "cut", "emptied", "removed", "exchanged"])
        if edit == "removed":
            path.unlink()
        elif edit == "exchanged":
            others = [folder / "split" / file for file in files]
            shutil.copy(dice.choice([other for other in others if other.read_bytes() != path.read_bytes()]), path)
        else:
            place = dice.randrange(len(lines))
            changes = {
                "line lost": lines[:place] + lines[place + 1 :],
                "line twice": [*lines, lines[place]],
                "emptied": [],
            }
            changes["bytes changed"] = [flip_bits(dice, b"".join(lines))]
            changes["cut"] = [b"".join(lines)[: dice.randrange(path.stat().st_size)]]
            path.write_bytes(b"".join(changes[edit]))
        codes = (0, 2) if name == "split_metadata.json" else (2,)
        argv = [
            "--data_splits_dir",
            str(folder / "split"),
            "--base_dir",
            str(world / "base"),
            "--n_folds",
            "2",
            *SMALLEST,
        ]
        argv += ["--output_dir", str(folder / "out"), "--dry_run", "--fold", "1"]
        cases.append(Case(f"edited split: {edit}", "train", argv, folder, codes, (Path(name).name,)))
    return cases
