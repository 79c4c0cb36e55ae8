"""docs/augmentations.jpg: what --preprocess does, on one pair of the sample. Rows: light_aug, strong_aug; source above target.

python -m bench.augmentation_pictures
"""

from __future__ import annotations

import io

import torch
from PIL import Image

from bench.measure import ROOT, SAMPLE
from common.files import write_bytes
from data.dataset import SampleKey, TrainingPairs
from data.fingerprint import fingerprint_pairs
from data.manifest import read_pairs

PAIR, DRAWS, SIDE = 8, 7, 128


def main() -> None:
    pairs = fingerprint_pairs(read_pairs(SAMPLE)[PAIR : PAIR + 1])
    rows = []
    for preprocess in ("light_aug", "strong_aug"):
        dataset = TrainingPairs(pairs, SIDE, "crop", preprocess, seed=1)
        samples = [dataset[SampleKey(epoch=0, draw=draw, index=0)] for draw in range(DRAWS)]
        rows += [torch.cat([sample[side] for sample in samples], dim=2) for side in ("src", "tar")]
    content = io.BytesIO()
    Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy()).save(content, "JPEG", quality=90)
    write_bytes(ROOT / "docs" / "augmentations.jpg", content.getvalue())


if __name__ == "__main__":
    main()
