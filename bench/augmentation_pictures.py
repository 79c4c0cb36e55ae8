"""docs/augmentations.jpg: what --preprocess does, on one pair of the sample. Rows: light_aug, strong_aug; source above target.

python -m bench.augmentation_pictures
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from data.dataset import decoded_pair
from data.files import write_bytes
from data.images import fit_crop_size
from data.manifest import read_pairs
from data.transforms import augment, random_crop, sample_generator

ROOT = Path(__file__).resolve().parent.parent
PAIR, DRAWS, SIDE = 8, 7, 128


def main() -> None:
    pair = read_pairs(ROOT / "data" / "sample" / "pairs.jsonl")[PAIR]
    src, tar = decoded_pair(pair, fit_crop_size(256, 192, SIDE, enlarge=True))
    rows = []
    for preprocess in ("light_aug", "strong_aug"):
        samples = []
        for draw in range(DRAWS):
            rng = sample_generator(seed=1, epoch=0, draw=draw, index=0)
            samples.append(augment(*random_crop(src, tar, SIDE, rng), preprocess, rng))
        rows += [np.concatenate(side, axis=1) for side in zip(*samples, strict=True)]
    content = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(content, "JPEG", quality=90)
    write_bytes(ROOT / "docs" / "augmentations.jpg", content.getvalue())


if __name__ == "__main__":
    main()
