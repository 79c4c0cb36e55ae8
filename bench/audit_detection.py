"""What create_data_splits.py --audit finds of faults planted in real pairs, its false alarms, and its speed.

  python -m bench.audit_detection --input_jsonl pairs.jsonl   # a `group` a scene gives other scenes and other views
  python -m bench.audit_detection --speed 8                   # 8 synthetic pairs of 12 megapixels

Each fault is planted in 5 % of the pairs at a time, in files of their own; the others stay as they are. A fault
counts as found when the pair is listed for the reason that fits. Everything lies in a temporary folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from bench.bench_fivek import photo
from data.audit.measures import Measures, measure, read_small
from data.audit.rank import rank
from data.colour import prophoto
from data.images import decode
from data.manifest import Pair, read_pairs
from data.transforms import tone_tables

EVERY, ROUNDS = 20, 5
MARGIN = 8  # pixels cut from all sides, so that a moved target has no empty edge
QUALITY = 92

Plant = Callable[[Image.Image, Image.Image], tuple[Image.Image, Image.Image]]


def moved(right: float, down: float, degrees: float) -> Plant:
    """The target shifted by pixels and turned clockwise; both sides lose their margin."""

    def plant(src: Image.Image, tar: Image.Image) -> tuple[Image.Image, Image.Image]:
        turned = tar.rotate(-degrees, Image.Resampling.BICUBIC) if degrees else tar
        offset = (1, 0, -right, 0, 1, -down)
        turned = turned.transform(tar.size, Image.Transform.AFFINE, offset, Image.Resampling.BICUBIC)
        box = (MARGIN, MARGIN, src.width - MARGIN, src.height - MARGIN)
        return src.crop(box), turned.crop(box)

    return plant


def brighter(src: Image.Image, tar: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The target 1.5 stops up in linear light, clipped."""
    return src, Image.fromarray(tone_tables(np.array([2**1.5]))[0][np.asarray(tar)])


def transposed(method: Image.Transpose) -> Plant:
    """The target turned or mirrored."""
    return lambda src, tar: (src, tar.transpose(method))


# name -> (what is done to the two images, kinds of reason that fit)
FAULTS: dict[str, tuple[Plant, set[str]]] = {
    "shift of 1.5 px": (moved(1.2, -0.9, 0), {"misregistered"}),
    "shift of 3 px": (moved(2.4, -1.8, 0), {"misregistered"}),
    "rotation by 0.3 degrees": (moved(0, 0, 0.3), {"misregistered"}),
    "rotation by 0.7 degrees": (moved(0, 0, 0.7), {"misregistered"}),
    "source and target swapped": (lambda src, tar: (tar, src), {"swapped"}),
    "target 1.5 stops up, clipped": (brighter, {"clipped"}),
    "target turned by 90 degrees": (transposed(Image.Transpose.ROTATE_270), {"turned"}),
    "target turned by 180 degrees": (transposed(Image.Transpose.ROTATE_180), {"turned"}),
    "target mirrored": (transposed(Image.Transpose.FLIP_LEFT_RIGHT), {"turned"}),
    "target tagged ProPhoto": (lambda src, tar: (src, tagged(tar)), {"profile"}),
    "target is the source": (lambda src, tar: (src, src), {"identical"}),
}


def tagged(image: Image.Image) -> Image.Image:
    image.info["icc_profile"] = prophoto()
    return image


def planted(folder: Path, pair: Pair, plant: Plant) -> Pair:
    """The pair with files of its own, in which the fault was planted."""
    images = plant(*(Image.fromarray(decode(path)) for path in (pair.src_path, pair.tar_path)))
    paths = {role: folder / f"{pair.stem}_{role}.jpg" for role in ("src_path", "tar_path")}
    for path, image in zip(paths.values(), images, strict=True):
        image.save(path, quality=QUALITY, icc_profile=image.info.get("icc_profile"))
    return dataclasses.replace(pair, **paths)


def other_scene(pairs: list[Pair], index: int) -> Pair:
    """The pair with the target of another scene, half the file away."""
    other = pairs[(index + len(pairs) // 2) % len(pairs)]
    return dataclasses.replace(pairs[index], tar_path=other.tar_path)


def other_view(pairs: list[Pair], index: int) -> Pair:
    """The pair with the target of another view of the same scene."""
    same = [pair for pair in pairs if pair.group == pairs[index].group and pair is not pairs[index]]
    return dataclasses.replace(pairs[index], tar_path=same[index % len(same)].tar_path)


def detection(pairs: list[Pair], clean: list[Measures], change: Callable[[int], Pair], kinds: set[str]) -> str:
    """`found / planted` of one fault, planted in every twentieth pair, five times."""
    found = count = 0
    for start in range(min(ROUNDS, EVERY)):
        indices = range(start, len(pairs), EVERY)
        measures = list(clean)
        for index in indices:
            measures[index] = measure(change(index))
        reasons = {f.index: {reason.kind for reason in f.reasons} for f in rank(pairs, measures)[0]}
        found += sum(bool(kinds & reasons.get(index, set())) for index in indices)
        count += len(indices)
    return f"{found} of {count}"


def detection_table(path: Path) -> None:
    """What is listed of the pairs as they are, and how many of each planted fault are found, as a Markdown table."""
    pairs = read_pairs(path)
    clean = [measure(pair) for pair in pairs]
    findings, notes = rank(pairs, clean)
    print(f"{len(pairs)} pairs as they are: {len(findings)} listed")
    for finding in findings:
        print(f"  {pairs[finding.index].src}: " + "; ".join(reason.text for reason in finding.reasons))
    for note in notes:
        print(f"  note: {note}")
    print("\n| planted | found for that reason |\n|---|---|")
    with tempfile.TemporaryDirectory() as place:
        for name, (plant, kinds) in FAULTS.items():
            score = detection(pairs, clean, lambda index, plant=plant: planted(Path(place), pairs[index], plant), kinds)
            print(f"| {name} | {score} |", flush=True)
    score = detection(pairs, clean, lambda index: other_scene(pairs, index), {"other_scene"})
    print(f"| target of another scene | {score} |")
    if len({pair.group for pair in pairs}) < len(pairs):
        kinds = {"other_scene", "misregistered"}
        score = detection(pairs, clean, lambda index: other_view(pairs, index), kinds)
        print(f"| target is another view of the scene (or: displaced) | {score} |")


def speed(count: int) -> None:
    """Seconds a 12-megapixel pair on one thread: reading alone, and all of it; and a planted shift of 3 pixels."""
    scene = photo(np.random.default_rng(0), 4000 + 2 * MARGIN, 3000 + 2 * MARGIN)
    still, moved_down = scene[MARGIN:-MARGIN, MARGIN:-MARGIN], scene[MARGIN + 3 : 3 - MARGIN, MARGIN:-MARGIN]
    src, tar, shifted = io.BytesIO(), io.BytesIO(), io.BytesIO()
    for image, content in ((still // 2, src), (still, tar), (moved_down, shifted)):
        Image.fromarray(image).save(content, "JPEG", quality=QUALITY)
    with tempfile.TemporaryDirectory() as place:
        pairs = []
        for number in range(count):
            paths = [Path(place) / f"{number}_{role}.jpg" for role in ("src", "tar")]
            for path, content in zip(paths, (src, shifted if number % 2 else tar), strict=True):
                path.write_bytes(content.getvalue())
            pairs.append(Pair(paths[0].name, paths[1].name, None, {}, place, 0, *paths))
        measure(pairs[0])
        start = time.perf_counter()
        for pair in pairs:
            read_small(pair.src_path), read_small(pair.tar_path)
        middle = time.perf_counter()
        measures = [measure(pair) for pair in pairs]
        end = time.perf_counter()
    megabytes = (len(src.getvalue()) + len(tar.getvalue())) / 2e6
    print(f"{count} pairs of 12 megapixels, {megabytes:.1f} MB a file, one thread:")
    reading, both = (1000 * seconds / count for seconds in (middle - start, end - middle))
    print(f"reading {reading:.0f} ms a pair, reading and measuring {both:.0f}")
    displaced = ", ".join(f"{m.alignment.rms:.2f}" for m in measures)
    print(f"displacement measured, in pixels, planted 0 and 3 in turn: {displaced}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input_jsonl", type=Path, help="real pairs in which faults are planted")
    parser.add_argument("--speed", type=int, metavar="N", help="time N synthetic pairs of 12 megapixels")
    args = parser.parse_args()
    if not (args.input_jsonl or args.speed):
        parser.error("give --input_jsonl, --speed or both")
    if args.input_jsonl:
        detection_table(args.input_jsonl)
    if args.speed:
        speed(args.speed)


if __name__ == "__main__":
    main()
