"""How fast prepare_fivek_robust.py is: pairs/s on 12-megapixel JPEG pairs, beside the naive way, and ms a pair when all is done.

  python -m bench.bench_fivek --pairs 24

The naive way is one process that decodes every image three times (to check it, to learn its size, to convert it), resizes
and saves it. A rerun is timed on many tiny pairs, its start-up included. Everything lies in a temporary folder.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "prepare_fivek_robust.py"
LONG_SIDE = 2048


def photo(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """Noise of several scales, which compresses like a photo: about 5 MB at 12 megapixels."""
    total = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((6, 60), (60, 25), (600, 12)):
        small = rng.normal(128, strength, (cells, cells, 3)).clip(0, 255).astype(np.uint8)
        total += np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), np.float32) - 128
    return (total + 128 + rng.normal(0, 7, (height, width, 1))).clip(0, 255).astype(np.uint8)


def make_pairs(folder: Path, count: int, width: int, height: int) -> int:
    """JPEG pairs in the guide's layout: one scene, shifted for each pair, the input darker. Bytes a file on average."""
    scene = photo(np.random.default_rng(0), width, height)
    sizes = []
    for number in range(1, count + 1):
        rounds, down = divmod(61 * number, height)  # another shift for each: the same photo twice would be rejected
        target = np.roll(scene, (down, 7 * rounds), axis=(0, 1))
        for subfolder, image in (("input", target // 2), ("output_expert_C", target)):
            path = folder / subfolder / f"a{number:04d}-synthetic.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, quality=92)
            sizes.append(path.stat().st_size)
    return sum(sizes) // len(sizes)


def naive(folder: Path, output: Path) -> None:
    """Three decodes an image, one process, straight into the final name."""
    output.mkdir()
    for source in sorted((folder / "input").iterdir()):
        for role, path in (("src", source), ("tar", folder / "output_expert_C" / source.name)):
            for _ in ("readable?", "large enough?"):
                Image.open(path).load()
            image = Image.open(path).convert("RGB")
            scale = min(1, LONG_SIDE / max(image.size))
            size = (round(image.width * scale), round(image.height * scale))
            image.resize(size, Image.Resampling.LANCZOS).save(output / f"{path.stem}_{role}.jpg", quality=95)


def cost_of(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds that pass and CPU seconds, those of ended child processes included."""
    start, cpu = time.perf_counter(), sum(os.times()[:4])
    action()
    return time.perf_counter() - start, sum(os.times()[:4]) - cpu


def prepare(folder: Path, output: Path, *more: str) -> tuple[float, float]:
    """`cost_of` one run of the script."""
    command = [sys.executable, str(SCRIPT), "--fivek_dir", str(folder), "--output_dir", str(output), *more]
    return cost_of(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24, help="12-megapixel pairs")
    parser.add_argument("--tiny_pairs", type=int, default=1000, help="pairs for the rerun")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        average = make_pairs(folder / "large", args.pairs, 4272, 2848)
        print(f"{args.pairs} pairs of 4272 x 2848 JPEG, {average / 1e6:.1f} MB a file; load {os.getloadavg()[0]:.1f}")
        runs = {
            f"prepare_fivek_robust.py, {len(os.sched_getaffinity(0))} CPUs": prepare(folder / "large", folder / "ours"),
            "naive way": cost_of(lambda: naive(folder / "large", folder / "naive")),
        }
        for name, (seconds, cpu) in runs.items():
            print(f"{name}: {args.pairs / seconds:.2f} pairs/s, {cpu / args.pairs:.2f} CPU seconds a pair")
        make_pairs(folder / "tiny", args.tiny_pairs, 96, 64)
        for name in ("first run", "run again"):
            seconds, cpu = prepare(folder / "tiny", folder / "tiny_out", "--min_resolution", "32")
            per_pair = f"{1000 * seconds / args.tiny_pairs:.2f} ms a pair, {1000 * cpu / args.tiny_pairs:.2f} ms of CPU"
            print(f"{args.tiny_pairs} pairs of 96 x 64, {name}: {per_pair}")
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
