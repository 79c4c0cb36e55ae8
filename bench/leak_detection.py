"""Which changed copies of photos the near-duplicate search finds, what it takes for copies that is none, and its speed.

  python -m bench.leak_detection --pairs pairs.jsonl [more.jsonl ...]   # a `group` a scene tells views of one scene apart
  python -m bench.leak_detection --rows 20000                           # seconds and memory of a search

Each pair is changed and saved anew (JPEG, quality 95), and counts as found when the search links it with its original. The bracket
sets give every shot two rows, each with its own retouch, which is saved anew. "src and tar before" is the rule up to this version:
both perceptual hashes within 6 bits.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data.images import decode
from data.lookalikes import MAX_BITS, NearDuplicate, near_duplicates
from data.manifest import Pair, read_pairs
from data.perceptual import FREQUENCY, FULL_SCALE, LUMA_LENGTH, TONE_DCT, Look, look_of, unit
from data.transforms import tone_tables

QUALITY = 95
Change = Callable[[Image.Image], Image.Image]


def same(image: Image.Image) -> Image.Image:
    """No change but that the picture is saved anew."""
    return image


def exposed(stops: float, cast: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Change:
    """Another exposure in linear light, clipped; `cast`: factors of the channels."""
    tables = tone_tables(2.0**stops * np.array(cast))
    channel = np.arange(3)
    return lambda image: Image.fromarray(tables[channel, np.asarray(image)])


def cropped(*shares: float) -> Change:
    """Without these shares of the left, top, right and bottom side."""

    def change(image: Image.Image) -> Image.Image:
        lengths = (image.width, image.height) * 2
        return ImageOps.crop(image, tuple(round(share * length) for share, length in zip(shares, lengths, strict=True)))

    return change


def turned(method: Image.Transpose) -> Change:
    return lambda image: image.transpose(method)


def resaved(quality: int) -> Change:
    return lambda image: saved(image, quality)


def saved(image: Image.Image, quality: int = QUALITY) -> Image.Image:
    """The picture after a JPEG file."""
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Image.open(content).convert("RGB")


def after(*changes: Change) -> Change:
    def change(image: Image.Image) -> Image.Image:
        for each in changes:
            image = each(image)
        return image

    return change


def half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def straightened(image: Image.Image) -> Image.Image:
    """Turned by one degree, and cropped to hide the corners."""
    return cropped(0.03, 0.03, 0.03, 0.03)(image.rotate(1, Image.Resampling.BICUBIC))


# name -> (change of the source, change of the target); None: that side is left out, as if it were another photo's.
CHANGES: dict[str, tuple[Change | None, Change | None]] = {
    "saved anew, quality 96": (resaved(96), resaved(96)),
    "saved anew, quality 70": (resaved(70), resaved(70)),
    "half the size": (half, half),
    "white balance": (exposed(0, (1.25, 1.0, 0.75)), exposed(0, (1.25, 1.0, 0.75))),
    **{f"bracket of {stops:+d} EV, own retouch": (exposed(stops), same) for stops in (-2, 2, 3)},
    **{f"{stops:+d} EV, source and target": (exposed(stops), exposed(stops)) for stops in (-3, -2, -1, 1, 2, 3)},
    **{f"{stops:+d} EV, source alone (another target)": (exposed(stops), None) for stops in (-3, -2, -1, 1, 2, 3)},
    **{f"{stops:+d} EV, target alone (another source)": (None, exposed(stops)) for stops in (-2, -1, 1, 2, 3)},
    "mirrored": (ImageOps.mirror, ImageOps.mirror),
    "turned by 90 degrees": (turned(Image.Transpose.ROTATE_90),) * 2,
    "turned by 180 degrees": (turned(Image.Transpose.ROTATE_180),) * 2,
    "straightened by 1 degree": (straightened, straightened),
    "cropped by 5 % a side": (cropped(0.05, 0.05, 0.05, 0.05),) * 2,
    "cropped by 10 % a side": (cropped(0.1, 0.1, 0.1, 0.1),) * 2,
    "cropped by 5 % at the left": (cropped(0.05, 0, 0, 0),) * 2,
    "cropped by 10 % at the left": (cropped(0.1, 0, 0, 0),) * 2,
    "cropped by 5 %, mirrored, +2 EV": (after(cropped(0.05, 0.05, 0.05, 0.05), ImageOps.mirror, exposed(2)),) * 2,
}


def look(image: Image.Image) -> Look:
    return look_of(np.asarray(image))


def hits_and_false_hits(path: Path) -> None:
    """The false hits among the pairs as they are, by name, and a table of what is found of each change."""
    pairs = read_pairs(path)
    images = [[Image.fromarray(decode(file)) for file in (pair.src_path, pair.tar_path)] for pair in pairs]
    src, tar = ([look(image[side]) for image in images] for side in (0, 1))
    report_false_hits(path, pairs, near_duplicates(src, tar))
    print("\n| change | src and tar before | either side now |\n|---|---|---|")
    for name, changes in CHANGES.items():
        started, shown = [], []
        for side, change in enumerate(changes):
            originals = (src, tar)[side]
            started.append(originals)
            # Left out: the side of another photo, so that it says nothing.
            others = originals[len(pairs) // 2 :] + originals[: len(pairs) // 2]
            shown.append(others if change is None else [look(saved(change(image[side]))) for image in images])
        before = sum(
            all(near_by_hash(one[n], two[n]) for one, two in zip(started, shown, strict=True))
            for n in range(len(pairs))
        )
        links = near_duplicates(src + shown[0], tar + shown[1], ["original"] * len(pairs) + ["changed"] * len(pairs))
        found = {hit.first for hit in links if hit.second == hit.first + len(pairs)}
        print(f"| {name} | {before} of {len(pairs)} | {len(found)} of {len(pairs)} |", flush=True)


def near_by_hash(first: Look, second: Look) -> bool:
    if first.phash is None or second.phash is None:
        return False
    return (first.phash ^ second.phash).bit_count() <= MAX_BITS


def report_false_hits(path: Path, pairs: list[Pair], hits: list[NearDuplicate]) -> None:
    """How many pairs of rows the search links, and each by name; those of one group are views of one scene."""
    count = len(pairs) * (len(pairs) - 1) // 2
    strangers = [
        hit for hit in hits if pairs[hit.first].group is None or pairs[hit.first].group != pairs[hit.second].group
    ]
    print(
        f"\n{path.parent.name}: {len(pairs)} pairs, {count} pairs of rows; linked: {len(strangers)} of different groups, "
        f"{len(hits) - len(strangers)} of one group"
    )
    for hit in hits:
        first, second = pairs[hit.first], pairs[hit.second]
        print(f"  {first.src} ~ {second.src} ({first.group}, {second.group}): {hit.describe()}")


def random_looks(count: int, rng: np.random.Generator) -> list[Look]:
    """Looks of `count` random pictures; a few at a time, so that the peak of memory is the search's."""
    return [look for start in range(0, count, 500) for look in _random_looks(min(500, count - start), rng)]


def _random_looks(count: int, rng: np.random.Generator) -> list[Look]:
    """Looks of random pictures with the spectrum of photos (1 / frequency), most of them brighter at the top."""
    down, across = np.fft.fftfreq(LUMA_LENGTH, 1 / LUMA_LENGTH)[:, None], np.fft.rfftfreq(LUMA_LENGTH, 1 / LUMA_LENGTH)
    spectrum = rng.standard_normal((count, LUMA_LENGTH, len(across), 2)) @ np.array([1, 1j])
    luma = np.fft.irfft2(spectrum / np.maximum(np.hypot(down, across), 1))
    luma /= luma.std(axis=(1, 2), keepdims=True)
    luma -= np.linspace(-1, 1, LUMA_LENGTH)[:, None] * rng.uniform(0, 2, (count, 1, 1))
    ranks = luma.reshape(count, -1).argsort(axis=1).argsort(axis=1).reshape(luma.shape)
    tones = np.rint(FULL_SCALE * unit(TONE_DCT @ ranks @ TONE_DCT.T * FREQUENCY)).astype(np.int8)
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64).tolist()
    return [Look(phash, tone.tobytes()) for phash, tone in zip(hashes, tones, strict=True)]


def speed(count: int) -> None:
    """Seconds and peak memory of the search among `count` rows, a hundredth of them copies of others."""
    rng = np.random.default_rng(0)
    src, tar = random_looks(count, rng), random_looks(count, rng)
    copies = count // 100
    src[-copies:], tar[-copies:] = src[:copies], tar[:copies]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, cpu = time.perf_counter(), time.process_time()
    hits = near_duplicates(src, tar)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{count} rows: {seconds:.1f} s, {cpu:.1f} s of CPU, {peak:.0f} MB more; {len(hits)} hits, {copies} planted")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, nargs="+", default=[], help="real pairs, whose copies are changed")
    parser.add_argument("--rows", type=int, nargs="+", default=[], metavar="N", help="time a search among N rows")
    args = parser.parse_args()
    if not (args.pairs or args.rows):
        parser.error("give --pairs, --rows or both")
    for path in args.pairs:
        hits_and_false_hits(path)
    for count in args.rows:
        speed(count)


if __name__ == "__main__":
    main()
