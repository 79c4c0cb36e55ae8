"""One candidate -> two JPEG files of one size, and a record of how they came about; or the reason why not.

Runs in a worker process and writes nothing. The result depends on the two files, the options and the versions of the
decoders, on nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from common.errors import InputError
from data.fingerprint import fingerprint_bytes, row_fields
from data.fivek.compare import (
    REJECT_BELOW,
    WARN_BELOW,
    Box,
    correlation,
    fit,
    has_filled_edge,
    is_transposed,
    output_size,
    saturation,
)
from data.fivek.config import FivekConfig
from data.fivek.find import SourceFile
from data.fivek.match import Candidate
from data.fivek.read import JPEG, Kind, Member, NeedsPackage, kind_of, read_member
from data.images import read_file, resize

SECOND = 10**9
UNLIMITED = 10**9
MARGIN = 1.02  # the common part of a pair may be a little smaller than either file


class Rejection(Exception):
    """Why a candidate makes no pair. lasting: the same files will be rejected again."""

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


@dataclass
class _Work:
    """What is known so far, so that a rejection can be recorded with it."""

    facts: dict = field(default_factory=dict)
    contents: list[bytes] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)


def make_pair(candidate: Candidate, config: FivekConfig) -> Outcome:
    """Read, reconcile, check and encode one candidate."""
    work = _Work()
    try:
        return _make(candidate, config, work)
    except Rejection as rejection:
        return Outcome(work.facts, str(rejection), rejection.lasting)


def image_names(key: str) -> dict[str, str]:
    """The paths of a pair's images below --output_dir."""
    return {side: f"images/{key}_{side}.jpg" for side in ("src", "tar")}


def output_mtime_ns(file: SourceFile) -> int:
    """The time that an image carries: that of its source file, in whole seconds, which every archive format keeps.

    So rows, which record it, are the same in every run, and training can trust a file by size and time.
    """
    return file.mtime_ns // SECOND * SECOND


def _make(candidate: Candidate, config: FivekConfig, work: _Work) -> Outcome:
    files = {"input": candidate.input, "target": candidate.target}
    for side, file in files.items():
        with _rejecting(side, file, config):
            content = _read(Path(config.fivek_dir) / file.path)
        kind = kind_of(content, file)
        work.contents.append(content)
        work.kinds.append(kind)
        work.facts[side] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "format": kind.format,
            "profile": kind.profile,
        }
    work.facts["captured"] = next((kind.captured for kind in work.kinds if kind.captured), "")
    src, tar = _reconcile(_decode_both(files, config, work), config, work)
    _check_content(src, tar, work)
    jpegs = [_encode(image, config.jpeg_quality) for image in (src, tar)]
    names = image_names(candidate.key)
    prints = [
        fingerprint_bytes(jpeg, name, output_mtime_ns(file))
        for jpeg, name, file in zip(jpegs, names.values(), files.values(), strict=True)
    ]
    work.facts["row"] = {**names, **row_fields(*prints)}
    return Outcome(work.facts, src_jpeg=jpegs[0], tar_jpeg=jpegs[1])


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


def _read(path: Path) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        # A network disk may answer the next time.
        raise Rejection(f"cannot be read: {error.strerror}", lasting=False) from None


def _decode_both(files: dict[str, SourceFile], config: FivekConfig, work: _Work) -> list[Member]:
    enough = int(config.max_resolution * MARGIN)
    jpeg_scale = 1
    if all(kind.format == JPEG for kind in work.kinds):
        # The same fraction for both, or they would differ in sharpness.
        shorter = min(max(kind.size) for kind in work.kinds)
        jpeg_scale = next((scale for scale in (8, 4, 2) if shorter >= scale * enough), 1)
    members = []
    for (side, file), kind in zip(files.items(), work.kinds, strict=True):
        content = work.contents.pop(0)  # a 16-bit file takes as much memory as its pixels
        options = {"auto_wb": config.auto_wb, "jpeg_scale": jpeg_scale, "long_side": enough}
        options["assume_prophoto"] = side == "target" and config.assume_profile == "prophoto"
        with _rejecting(side, file, config):
            members.append(read_member(content, file, kind, **options))
        work.facts[side]["size"] = list(members[-1].native_size)
    return members


def _reconcile(members: list[Member], config: FivekConfig, work: _Work) -> tuple[np.ndarray, np.ndarray]:
    source, target = members
    turned = is_transposed(source.native_size, target.native_size)
    if turned:
        source, turn = _turned_to(source, target)
    common = fit(source.native_size, target.native_size)
    sizes = [f"{width}x{height}" for width, height in (source.native_size, target.native_size)]
    if common is None:
        raise Rejection(f"shapes disagree: input {sizes[0]}, target {sizes[1]} (was it cropped by the expert?)")
    work.facts["geometry"] = f"turned by {turn}" if turned else common.kind
    size = output_size(common, config.max_resolution)
    native = output_size(common, UNLIMITED)
    if min(native) < config.min_resolution:
        raise Rejection(f"too small: {native[0]}x{native[1]}, --min_resolution is {config.min_resolution}")
    return (
        resize(source.pixels, size, _scaled(common.input_box, source.scale)),
        resize(target.pixels, size, _scaled(common.target_box, target.scale)),
    )


def _turned_to(source: Member, target: Member) -> tuple[Member, str]:
    """The input turned by a quarter, in the direction in which it looks like the target."""
    turned = [np.ascontiguousarray(np.rot90(source.pixels, quarters)) for quarters in (-1, 1)]
    right, left = (Member(pixels, source.scale, source.native_size[::-1]) for pixels in turned)
    scores = [correlation(pixels, target.pixels) or -1.0 for pixels in turned]
    return (right, "90 degrees right") if scores[0] >= scores[1] else (left, "90 degrees left")


def _check_content(src: np.ndarray, tar: np.ndarray, work: _Work) -> None:
    score = correlation(src, tar)
    if score is None:
        raise Rejection("one of the images is blank")
    if has_filled_edge(src, tar):
        raise Rejection("a part of one image is filled with one colour (a file that was cut and saved again?)")
    work.facts |= {"correlation": round(score, 3), "saturation": [round(saturation(image), 4) for image in (src, tar)]}
    if score < REJECT_BELOW:
        raise Rejection(f"the images do not show the same thing (correlation {score:.2f}, at least {REJECT_BELOW})")
    work.facts["warnings"] = [f"weak correlation {score:.2f}"] if score < WARN_BELOW else []


def _scaled(box: Box, scale: int) -> Box:
    return tuple(side / scale for side in box)


def _encode(image: np.ndarray, quality: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=quality, subsampling=0)
    return content.getvalue()
