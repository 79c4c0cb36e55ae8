"""What freezing, layer decay, gradual unfreezing and mixing do to a fine-tuning with few pairs: one Markdown table.

    make ablation PAIRS=photos    # a pairs JSONL, or a folder that holds pairs.jsonl

Rows need a `group` (scene). Three scenes are the new task, all others the pre-training. Each of the three in turn is the test;
from the other two a few pairs are taken for fine-tuning. Everything runs through the scripts, so a rerun continues, and no
test photo is ever seen. Scores are of the last epoch (no choosing on the test scene). Three scenes are too few independent units
for an interval: instead the difference in each scene stands beside its mean.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.measure import ROOT, table
from common.files import write_json, write_jsonl

NEW_SCENES = 3
FORGETTING_PAIRS = 6
REFERENCE = "fine-tuned, nothing else"
VARIANTS = {
    "from scratch": None,
    REFERENCE: [],
    "freeze 2 stages": ["--freeze_stages", "2"],
    "freeze 3, unfreeze one every {third} epochs": ["--freeze_stages", "3", "--unfreeze_every", "{third}"],
    "layer decay 0.8": ["--layer_decay", "0.8"],
    "mixed with pre-training pairs, ratio 0.5": ["--mix_jsonl", "{mix}", "--mix_ratio", "0.5"],
    "strong augmentation": ["--preprocess", "strong_aug"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="a pairs JSONL, or a folder with pairs.jsonl")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model_size", default="m")
    parser.add_argument("--resolution", type=int, default=96)
    parser.add_argument("--pretrain_epochs", type=int, default=6)
    parser.add_argument("--pretrain_lr", type=float, default=8e-4)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--pairs_per_scene", type=int, default=4)
    args = parser.parse_args()
    rows = absolute_rows(args.pairs / "pairs.jsonl" if args.pairs.is_dir() else args.pairs)
    scenes = sorted({row["group"] for row in rows}, key=lambda scene: hashlib.sha256(scene.encode()).hexdigest())
    new = {scene: [row for row in rows if row["group"] == scene] for scene in scenes[:NEW_SCENES]}
    old = [row for row in rows if row["group"] not in new]
    start = args.output_dir / "pretrain"
    write_jsonl(start / "train.jsonl", old[FORGETTING_PAIRS:])
    write_jsonl(start / "val.jsonl", old[:FORGETTING_PAIRS])
    train(args, start, args.pretrain_epochs, args.pretrain_lr, [])

    weights, places = start / "checkpoint_best.pt", {scene: args.output_dir / f"as_is_{scene}" for scene in new}
    psnr = [score for scene in new for score in test_psnr(args, weights, new[scene], places[scene])]
    scores = {"not fine-tuned": {"psnr": psnr, "forgotten": [last_psnr(start)]}}
    for name, flags in VARIANTS.items():
        scores[fill(args, name)] = fine_tuned(args, new, old, name, flags)
    write_json(args.output_dir / "ablation.json", scores)
    sizes = [len(rows) for rows in new.values()]
    print(
        f"DarkIR-{args.model_size}, resolution {args.resolution}, pre-trained on {len(old) - FORGETTING_PAIRS} pairs for "
        f"{args.pretrain_epochs} epochs, fine-tuned on {2 * args.pairs_per_scene} pairs for {args.epochs} epochs, tested on "
        f"{len(scores[REFERENCE]['psnr'])} photos of {len(new)} scenes\n\n{score_table(scores, sizes)}"
    )


def absolute_rows(path: Path) -> list[dict]:
    """Rows with absolute paths, so that they may be written anywhere."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [{**row, **{side: str((path.parent / row[side]).resolve()) for side in ("src", "tar")}} for row in rows]


def fine_tuned(
    args: argparse.Namespace, new: dict[str, list[dict]], old: list[dict], name: str, flags: list[str] | None
) -> dict[str, list[float]]:
    """Fine-tune once for each test scene; the scores of all test photos, in a fixed order."""
    scores: dict[str, list[float]] = {"psnr": [], "forgotten": []}
    label = name.split("{")[0].strip().replace(" ", "_").replace(",", "")
    # What is forgotten is measured on the validation photos of the pre-training.
    weights = ["--allow_seen_validation", "--pretrained_path", args.output_dir / "pretrain" / "checkpoint_best.pt"]
    start = [] if flags is None else weights
    for test_scene in new:
        place = args.output_dir / f"{label}_{test_scene}"
        few = [row for scene in new if scene != test_scene for row in new[scene][: args.pairs_per_scene]]
        write_jsonl(place / "train.jsonl", few)
        write_jsonl(place / "val.jsonl", old[:FORGETTING_PAIRS])
        train(args, place, args.epochs, args.lr, [*start, *(fill(args, flag) for flag in flags or [])])
        scores["psnr"] += test_psnr(args, place / "checkpoint_final.pt", new[test_scene], place)
        scores["forgotten"].append(last_psnr(place))
    return scores


def fill(args: argparse.Namespace, text: str) -> str:
    return text.format(third=max(1, args.epochs // 3), mix=args.output_dir / "pretrain" / "train.jsonl")


def train(args: argparse.Namespace, place: Path, epochs: int, lr: float, flags: list[object]) -> None:
    """Train on the train.jsonl in `place`, which becomes the run's folder."""
    common = ["--model_size", args.model_size, "--resolution", args.resolution, "--epochs", epochs, "--lr", lr]
    common += "--lambda_vgg 0 --num_workers 0 --batch_size 8 --ema_decay 0.9 --early_stopping_patience 0".split()
    script("train_darkir_cv.py", "--train_jsonl", place / "train.jsonl", "--output_dir", place, *common, *flags)


def last_psnr(place: Path) -> float:
    """PSNR in dB on the pre-training scenes' photos after the last epoch."""
    return json.loads((place / "history.json").read_text())[-1]["val_psnr"]


def test_psnr(args: argparse.Namespace, weights: Path, rows: list[dict], place: Path) -> list[float]:
    """PSNR in dB of each photo of `rows`."""
    write_jsonl(place / "test.jsonl", rows)
    flags = ["--test_jsonl", place / "test.jsonl", "--output_dir", place / "test", "--num_workers", 0]
    script("evaluate_darkir_test.py", "--checkpoint", weights, "--resolution", args.resolution, *flags)
    with open(place / "test" / "per_image.csv", newline="", encoding="utf-8") as handle:
        return [float(row["psnr"]) for row in csv.DictReader(handle) if row["model"] != "identity"]


def script(name: str, *flags: object) -> None:
    """Run one of the scripts as a user does; its log goes to stderr, so that stdout holds the table alone."""
    subprocess.run([sys.executable, ROOT / name, *map(str, flags)], stdout=sys.stderr, check=True)


def score_table(scores: dict[str, dict[str, list[float]]], sizes: list[int]) -> str:
    """Markdown: a row a variant. sizes: photos of each test scene, in the order of the scores."""
    lines = []
    for name, values in scores.items():
        change = np.subtract(values["psnr"], scores[REFERENCE]["psnr"])
        each = ", ".join(f"{part.mean():+.2f}" for part in np.split(change, np.cumsum(sizes)[:-1]))
        difference = "" if name == REFERENCE else f"{change.mean():+.2f} dB ({each})"
        kept = sum(values["forgotten"]) / len(values["forgotten"])
        lines.append([name, f"{np.mean(values['psnr']):.2f} dB", difference, f"{kept:.2f} dB"])
    header = ("test PSNR", "difference to plain fine-tuning (in each scene)", "PSNR on pre-training scenes")
    return table(("variant", *header), lines)


if __name__ == "__main__":
    main()
