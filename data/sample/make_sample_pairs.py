"""Eight CC0 panoramas (equirectangular EXR, linear RGB) -> 48 pairs of 256 x 192 JPEGs and pairs.jsonl, for the demo.

    python -m data.sample.make_sample_pairs --panorama_dir PANORAMAS --output_dir data/sample
    python -m data.sample.make_sample_pairs --check --output_dir data/sample

Reads PANORAMA_DIR/*.exr; each file's stem is the group of its six views. Writes OUTPUT_DIR/images/GROUP_NN_src.jpg
(one noisy under-exposure with a colour cast), GROUP_NN_tar.jpg (exposure fusion of a bracket) and pairs.jsonl. Reading
EXR needs `pip install OpenEXR` (3.3 or newer), which nothing else in the project needs; --check needs no panoramas.
A rerun with the same versions of numpy, Pillow and OpenEXR gives the same bytes. Exit codes: 0 done, 2 wrong input.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from common.files import write_bytes, write_jsonl
from data.images import jpeg
from data.sample.photo import HEIGHT, WIDTH, render_view, retouched, underexposed

PANORAMAS, VIEWS = 8, 6
MAX_BYTES = 3_000_000
IDENTITY_PSNR_DB = (13.0, 16.0)


def make_pair(panorama: np.ndarray, group: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Source and target (192, 256, 3) uint8 of view `index` of 6; all randomness comes from (group, index)."""
    rng = np.random.Generator(np.random.PCG64([zlib.crc32(group.encode()), index]))
    yaw = (index + rng.uniform(-0.3, 0.3)) * 360 / VIEWS
    view = render_view(panorama, yaw, rng.uniform(-10, 12), rng.uniform(62, 75))
    pair = underexposed(view, rng), retouched(view)
    src, tar = (np.round(image * 255).clip(0, 255).astype(np.uint8) for image in pair)
    return src, tar


def read_panorama(path: Path) -> np.ndarray:
    """(H, W, 3) float32 linear RGB, the compression's negative ringing cut off. InputError on other files."""
    import OpenEXR  # only the generator needs it, --check does not

    try:
        channels = OpenEXR.File(str(path)).channels()
    except RuntimeError as error:
        raise InputError(f"--panorama_dir: {path} cannot be read as EXR: {error}") from error
    if "RGB" not in channels:
        raise InputError(f"--panorama_dir: {path} has no RGB channels, only {', '.join(channels)}")
    return np.maximum(channels["RGB"].pixels.astype(np.float32), 0)


def make_sample(panorama_dir: Path, output_dir: Path) -> None:
    """Write images/ and pairs.jsonl. Raises InputError when PANORAMA_DIR does not hold the eight panoramas."""
    files = sorted(panorama_dir.glob("*.exr"))
    if len(files) != PANORAMAS:
        raise InputError(f"--panorama_dir: {panorama_dir} holds {len(files)} *.exr files; {PANORAMAS} are needed")
    rows = []
    for file in files:
        panorama = read_panorama(file)
        for index in range(VIEWS):
            src, tar = make_pair(panorama, file.stem, index)
            row = {name: f"images/{file.stem}_{index:02d}_{name}.jpg" for name in ("src", "tar")}
            for role, image, quality in (("src", src, 92), ("tar", tar, 95)):
                content = jpeg(Image.fromarray(image), quality, subsampled=True, optimize=True)
                write_bytes(output_dir / row[role], content)
            rows.append({**row, "group": file.stem})
    write_jsonl(output_dir / "pairs.jsonl", rows)


def check_sample(output_dir: Path) -> str:
    """One line about the sample in OUTPUT_DIR; InputError listing each promise of its README that does not hold."""
    listing = output_dir / "pairs.jsonl"
    if not listing.is_file():
        raise InputError(f"--output_dir: {listing} does not exist; make it with --panorama_dir")
    rows = [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines()]
    groups = [row["group"] for row in rows]
    faults = []
    if len(rows) != PANORAMAS * VIEWS or {groups.count(group) for group in groups} != {VIEWS}:
        faults.append(f"{len(rows)} pairs in {len(set(groups))} groups; {PANORAMAS} groups of {VIEWS} were promised")
    files = [output_dir / row[name] for row in rows for name in ("src", "tar")]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise InputError(f"{output_dir} lacks {', '.join(missing)}; make it again with --panorama_dir")
    total = sum(file.stat().st_size for file in files)
    if total > MAX_BYTES:
        faults.append(f"{total} bytes; at most {MAX_BYTES} were promised")
    images = {file: np.asarray(Image.open(file)) for file in files}
    faults += [
        f"{file}: {im.shape}, not 256 x 192 RGB" for file, im in images.items() if im.shape != (HEIGHT, WIDTH, 3)
    ]
    if not faults:
        psnrs = [psnr(images[output_dir / row["src"]], images[output_dir / row["tar"]]) for row in rows]
        low, high = IDENTITY_PSNR_DB
        summary = f"identity PSNR {np.mean(psnrs):.2f} dB on average, {min(psnrs):.1f} to {max(psnrs):.1f}"
        if low <= np.mean(psnrs) <= high:
            return f"{len(rows)} pairs, {total} bytes, {summary}"
        faults.append(f"{summary}; an average of {low} to {high} was promised")
    raise InputError("\n".join(faults))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR in dB of two uint8 images."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


def main(argv: list[str] | None = None) -> int:
    """Make the sample when --panorama_dir is given, then check it; returns 0, or exits with 2 and a message."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--panorama_dir", type=Path, help="folder with the eight EXR panoramas")
    task.add_argument("--check", action="store_true", help="only check the pairs in OUTPUT_DIR")
    parser.add_argument("--output_dir", type=Path, default=Path("data/sample"), help="default: data/sample")
    args = parser.parse_args(argv)
    try:
        if args.panorama_dir:
            make_sample(args.panorama_dir, args.output_dir)
        print(check_sample(args.output_dir))
    except InputError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
