"""Two files -> two JPEG files of one size, and a record of how they came about; or the reason why not.

Runs in a worker process and writes nothing. The result depends on the two files, the options and the versions of the
decoders, on nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from data.decoding.unread import NeedsPackage
from data.fingerprint import fingerprint_bytes, row_fields
from data.fivek.compare import (
    REJECT_BELOW,
    WARN_BELOW,
    correlation,
    fit,
    has_filled_edge,
    is_transposed,
    output_size,
    saturation,
)
from data.fivek.config import FivekConfig
from data.fivek.find import SourceFile
from data.fivek.match import FilePair
from data.fivek.read import JPEG, DecodedImage, Kind, kind_of, read_image
from data.images import decoder_of, jpeg, read_file, resize

SECOND = 10**9
UNLIMITED = 10**9
MARGIN = 1.02  # the common part of a pair may be a little smaller than either file


class Rejection(Exception):
    """Why two files make no pair. lasting: the same files will be rejected again."""

    def __init__(self, reason: str, lasting: bool = True):
        super().__init__(reason)
        self.lasting = lasting


@dataclass(frozen=True)
class Outcome:
    """facts: what the record keeps. reason: "" for a pair, whose two files then are given as bytes."""

    facts: dict
    reason: str = ""
    lasting: bool = True
    src_jpeg: bytes = b""
    tar_jpeg: bytes = b""


def make_pair(pair: FilePair, config: FivekConfig) -> Outcome:
    """Read, reconcile, check and encode both files."""
    facts: dict = {}  # grows while the pair is made, so that a rejection is recorded with what is known by then
    try:
        src_jpeg, tar_jpeg = _make(pair, config, facts)
    except Rejection as rejection:
        return Outcome(facts, str(rejection), rejection.lasting)
    return Outcome(facts, src_jpeg=src_jpeg, tar_jpeg=tar_jpeg)


def _make(pair: FilePair, config: FivekConfig, facts: dict) -> list[bytes]:
    files = {"input": pair.input, "target": pair.target}
    contents, kinds = [], []
    for side, file in files.items():
        try:
            with _rejecting(side, file, config):
                contents.append(read_file(Path(config.fivek_dir) / file.path))
        except OSError as error:
            # A network disk may answer the next time.
            raise Rejection(f"cannot be read: {error.strerror}", lasting=False) from None
        kind = kind_of(contents[-1], file)
        kinds.append(kind)
        digest = hashlib.sha256(contents[-1]).hexdigest()
        facts[side] = {"sha256": digest, "format": kind.format, "profile": kind.profile}
    facts["captured"] = next((kind.captured for kind in kinds if kind.captured), "")
    images = _reconcile(*_decode_both(files, contents, kinds, config, facts), config, facts)
    _check_content(*images, facts)
    jpegs = [jpeg(Image.fromarray(image), config.jpeg_quality) for image in images]
    names = image_names(pair.key)
    prints = [
        fingerprint_bytes(content, name, output_mtime_ns(file))
        for content, name, file in zip(jpegs, names.values(), files.values(), strict=True)
    ]
    facts["row"] = {**names, **row_fields(prints[0], prints[1], decoder_of(*names.values()))}
    return jpegs


@contextlib.contextmanager
def _rejecting(side: str, file: SourceFile, config: FivekConfig) -> Iterator[None]:
    """Turn what is wrong with one file into a Rejection that says on which side it stands, not where."""
    try:
        yield
    except InputError as error:
        text = str(error)
        for name in (str(Path(config.fivek_dir) / file.path), file.path):
            text = text.removeprefix(f"{name}: ")
        raise Rejection(f"{side}: {text}", lasting=not isinstance(error, NeedsPackage)) from None


def _decode_both(
    files: dict[str, SourceFile], contents: list[bytes], kinds: list[Kind], config: FivekConfig, facts: dict
) -> tuple[DecodedImage, DecodedImage]:
    enough = int(config.max_resolution * MARGIN)
    jpeg_scale = 1
    if all(kind.format == JPEG for kind in kinds):
        # The same fraction for both, or they would differ in sharpness.
        shorter = min(max(kind.size) for kind in kinds)
        jpeg_scale = next((scale for scale in (8, 4, 2) if shorter >= scale * enough), 1)
    images = []
    for (side, file), kind in zip(files.items(), kinds, strict=True):
        content = contents.pop(0)  # a 16-bit file takes as much memory as its pixels
        prophoto = side == "target" and config.assume_profile == "prophoto"
        with _rejecting(side, file, config):
            images.append(
                read_image(
                    content,
                    file,
                    kind,
                    jpeg_scale=jpeg_scale,
                    long_side=enough,
                    auto_wb=config.auto_wb,
                    assume_prophoto=prophoto,
                )
            )
        facts[side]["size"] = list(images[-1].native_size)
    source, target = images
    return source, target


def _reconcile(
    source: DecodedImage, target: DecodedImage, config: FivekConfig, facts: dict
) -> tuple[np.ndarray, np.ndarray]:
    """The part that both show, in one size and the same direction."""
    turn = None
    if is_transposed(source.native_size, target.native_size):
        # In the direction in which the input looks like the target.
        turned = [np.ascontiguousarray(np.rot90(source.pixels, quarters)) for quarters in (-1, 1)]
        right, left = (correlation(pixels, target.pixels) or -1.0 for pixels in turned)
        turn, pixels = ("90 degrees right", turned[0]) if right >= left else ("90 degrees left", turned[1])
        source = DecodedImage(pixels, source.scale, source.native_size[::-1])
    common = fit(source.native_size, target.native_size)
    if common is None:
        sizes = [f"{width}x{height}" for width, height in (source.native_size, target.native_size)]
        raise Rejection(f"shapes disagree: input {sizes[0]}, target {sizes[1]} (was it cropped by the expert?)")
    facts["geometry"] = f"turned by {turn}" if turn else common.kind
    native = output_size(common, UNLIMITED)
    if min(native) < config.min_resolution:
        raise Rejection(f"too small: {native[0]}x{native[1]}, --min_resolution is {config.min_resolution}")
    size = output_size(common, config.max_resolution)
    src, tar = (
        resize(image.pixels, size, (left / image.scale, top / image.scale, right / image.scale, bottom / image.scale))
        for image, (left, top, right, bottom) in ((source, common.input_box), (target, common.target_box))
    )
    return src, tar


def _check_content(src: np.ndarray, tar: np.ndarray, facts: dict) -> None:
    score = correlation(src, tar)
    if score is None:
        raise Rejection("one of the images is blank")
    if has_filled_edge(src, tar):
        raise Rejection("a part of one image is filled with one colour (a file that was cut and saved again?)")
    facts |= {"correlation": round(score, 3), "saturation": [round(saturation(image), 4) for image in (src, tar)]}
    if score < REJECT_BELOW:
        raise Rejection(f"the images do not show the same thing (correlation {score:.2f}, at least {REJECT_BELOW})")
    facts["warnings"] = [f"weak correlation {score:.2f}"] if score < WARN_BELOW else []


def image_names(key: str) -> dict[str, str]:
    """The paths of a pair's images below --output_dir."""
    return {role: f"images/{key}_{role}.jpg" for role in ("src", "tar")}


def output_mtime_ns(file: SourceFile) -> int:
    """The time that an image carries: that of its source file, in whole seconds, which every archive format keeps.

    So rows, which record it, are the same in every run, and training can trust a file by size and time.
    """
    return file.mtime_ns // SECOND * SECOND
