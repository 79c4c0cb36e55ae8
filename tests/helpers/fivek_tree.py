"""Makes a folder shaped like FiveK from any pairs JSONL: JPEG and DNG inputs, 16-bit ProPhoto TIFF renditions.

python -m tests.helpers.fivek_tree --pairs_jsonl pairs.jsonl --output_dir fivek_dataset --dng_every 3
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

import numpy as np

from common.files import write_bytes, write_text
from data.colour import PROPHOTO_GAMMA, parse_profile, prophoto
from data.images import decode
from data.manifest import read_pairs
from tests.helpers.image_files import tiff

BLACK, WHITE = 512, 16383
# XYZ to the colours of a camera that does not exist, and its neutral under the light of the scene.
COLOUR_MATRIX = np.array([[0.6347, -0.0479, -0.0972], [-0.8297, 1.5954, 0.2480], [-0.1968, 0.2131, 0.7649]])
NEUTRAL = np.array([0.5, 1.0, 0.625])
SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
CFA = ((0, 1), (1, 2))  # RGGB


def linear(image: np.ndarray) -> np.ndarray:
    """uint8 sRGB -> linear light in [0, 1]."""
    codes = image / 255
    return np.where(codes <= 0.04045, codes / 12.92, ((codes + 0.055) / 1.055) ** 2.4)


def prophoto_samples(image: np.ndarray) -> np.ndarray:
    """uint8 sRGB -> uint16 ProPhoto codes with the gamma of FiveK's renditions."""
    light = linear(image) @ np.linalg.inv(parse_profile(prophoto()).matrix).T
    return np.rint(np.clip(light, 0, 1) ** (256 / PROPHOTO_GAMMA) * 65535).astype(np.uint16)


def prophoto_tiff(image: np.ndarray, zipped: bool = False, tags: dict | None = None) -> bytes:
    """A rendition as FiveK's experts left it: 16 bits, ProPhoto profile embedded."""
    return tiff(prophoto_samples(image), zipped=zipped, tags={34675: (1, list(prophoto())), **(tags or {})})


def dng(image: np.ndarray, *, orientation: int = 1, border: int = 0, without: tuple[int, ...] = ()) -> bytes:
    """A DNG whose neutral rendering is `image` (uint8 sRGB, sides even); needs tifffile.

    border: pixels around the picture that DefaultCrop cuts off (even). without: tags to leave out.
    """
    import tifffile

    camera = COLOUR_MATRIX @ SRGB_TO_XYZ
    camera = camera / camera.sum(axis=1, keepdims=True)
    light = np.pad(linear(image), ((border, border), (border, border), (0, 0)), mode="edge") @ camera.T * NEUTRAL
    mosaic = np.empty(light.shape[:2])
    for row in (0, 1):
        for column in (0, 1):
            mosaic[row::2, column::2] = light[row::2, column::2, CFA[row][column]]
    samples = np.rint(BLACK + np.clip(mosaic, 0, 1) * (WHITE - BLACK)).astype(np.uint16)
    matrix = [part for value in COLOUR_MATRIX.ravel() for part in (round(value * 10000), 10000)]
    height, width = image.shape[:2]
    tags = [
        (50706, "B", 4, (1, 4, 0, 0)),
        (50707, "B", 4, (1, 1, 0, 0)),
        (50708, "s", 0, "Imaginary One"),
        (271, "s", 0, "Imaginary"),
        (272, "s", 0, "One"),
        (274, "H", 1, orientation),
        (33421, "H", 2, (2, 2)),
        (33422, "B", 4, (0, 1, 1, 2)),
        (50714, "H", 1, BLACK),
        (50717, "I", 1, WHITE),
        (50719, "2I", 2, (border, 1, border, 1)),
        (50720, "2I", 2, (width, 1, height, 1)),
        (50721, "2i", 9, matrix),
        (50778, "H", 1, 21),
        (50728, "2I", 3, [part for value in NEUTRAL for part in (round(value * 1000), 1000)]),
    ]
    content = io.BytesIO()
    extra = [(*tag, True) for tag in tags if tag[0] not in without]
    tifffile.imwrite(content, samples, photometric=32803, metadata=None, extratags=extra)
    return content.getvalue()


def build_tree(pairs_jsonl: Path, output_dir: Path, dng_every: int = 3) -> int:
    """Write the tree for the pairs of `pairs_jsonl`; every `dng_every`-th input as DNG (0: none). The number of pairs."""
    pairs = read_pairs(pairs_jsonl)
    names = [f"a{number:04d}-{pair.stem.removesuffix('_src')}" for number, pair in enumerate(pairs, start=1)]
    for number, (name, pair) in enumerate(zip(names, pairs, strict=True)):
        if dng_every and number % dng_every == 0:
            even = decode(pair.src_path)
            even = even[: even.shape[0] // 2 * 2, : even.shape[1] // 2 * 2]
            write_bytes(output_dir / "raw_photos" / "HQa1to700" / "photos" / f"{name}.dng", dng(even, border=2))
        else:
            (output_dir / "input").mkdir(parents=True, exist_ok=True)
            shutil.copy2(pair.src_path, output_dir / "input" / f"{name}{pair.src_path.suffix}")
        write_bytes(
            output_dir / "tiff16_c" / f"{name}.tif", prophoto_tiff(decode(pair.tar_path), zipped=number % 2 == 0)
        )
    half = len(names) // 2
    for listing, part in (("filesAdobe.txt", names[:half]), ("filesAdobeMIT.txt", names[half:])):
        write_text(output_dir / listing, "".join(f"{name}\n" for name in part))
    return len(pairs)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs_jsonl", type=Path, required=True, help="pairs, one {src, tar} a line")
    parser.add_argument("--output_dir", type=Path, required=True, help="the folder to make")
    parser.add_argument("--dng_every", type=int, default=3, help="every so many-th input becomes a DNG; 0: none")
    args = parser.parse_args(argv)
    count = build_tree(args.pairs_jsonl, args.output_dir, args.dng_every)
    sys.stdout.write(f"{args.output_dir}: {count} pairs\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
