"""Samples in the colours of an ICC profile -> sRGB; and the ProPhoto profile, for files that lack theirs.

RGB profiles made of a matrix and tone curves, and gray ones made of one curve, are evaluated exactly from their tags:
curve -> linear light -> 3x3 (profile to PCS to sRGB) -> sRGB encoding. An 8-bit CMM is off by up to 22 codes there.
Profiles with lookup tables, and CMYK, go through littlecms.
Sources: ICC.1:2010 sections 7 (layout), 10.5 (curv), 10.15 (para), 10.27 (XYZ); IEC 61966-2-1 for sRGB.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms

Curve = Callable[[np.ndarray], np.ndarray]

PCS_WHITE = np.array([0.96420288, 1.0, 0.82490540])  # D50 as ICC profiles store it
SRGB_CHROMATICITIES = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)  # white, red, green, blue
ROWS = 256  # rows converted at a time: bounds the float copies of a large photo
# Parameters of each function type of a `para` tag, in the file's order g a b c d e f.
PARAMETERS = {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}
# Colorants of ProPhoto (ROMM) RGB adapted to D50, and the pure gamma 461/256 that FiveK's renditions carry: their
# embedded profile has no linear toe.
PROPHOTO_COLORANTS = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.8249))
PROPHOTO_GAMMA = 461


class ProfileError(ValueError):
    """The embedded ICC profile cannot be used; the message says why."""


@dataclass(frozen=True)
class Profile:
    """space: "RGB", "GRAY" or "CMYK". curves, matrix (linear RGB to linear sRGB): None when littlecms must convert."""

    icc: bytes
    space: str
    curves: tuple[Curve, ...] | None
    matrix: np.ndarray | None


def srgb_encode(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] (clipped) -> sRGB in [0, 1]."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.power(linear, 1 / 2.4) - 0.055)


@functools.lru_cache(maxsize=32)
def parse_profile(icc: bytes) -> Profile | None:
    """Parse an ICC profile; None when it is sRGB itself (no colour moves by more than one 8-bit code).

    Raises ProfileError when it is broken or of a colour space other than RGB, gray and CMYK.
    """
    try:
        profile = _parse(icc)
    except (struct.error, IndexError) as error:
        raise ProfileError(f"it is cut short ({error})") from None
    if profile.curves is None or profile.matrix is None:
        return profile
    steps = np.arange(0, 256, 15)
    colours = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    linear = np.stack([curve(colours[:, channel] / 255) for channel, curve in enumerate(profile.curves)], axis=1)
    moved = srgb_encode(linear @ profile.matrix.T) * 255 - colours
    return None if np.abs(moved).max() <= 1.0 else profile


def to_srgb(samples: np.ndarray, profile: Profile, dtype: type = np.uint8) -> np.ndarray:
    """(H, W, C) uint8 or uint16 in the colours of `profile` -> (H, W, 3) sRGB of `dtype` (uint8 or uint16), rounded.

    C is 3, or 1 for a gray profile. Profiles without curves lose what they have beyond 8 bits (littlecms via Pillow).
    """
    if profile.curves is None:
        return change_depth(_by_littlecms(change_depth(samples, np.uint8), profile), dtype)
    if profile.space == "GRAY":
        codes = np.arange(np.iinfo(samples.dtype).max + 1) / np.iinfo(samples.dtype).max
        table = _quantise(srgb_encode(profile.curves[0](codes)), dtype)
        return np.repeat(table[samples], 3, axis=2)
    assert profile.matrix is not None  # RGB with curves
    tables = _linear_tables(profile.icc, samples.dtype.name)
    matrix = profile.matrix.T.astype(np.float32)
    result: np.ndarray = np.empty(samples.shape, dtype)
    for top in range(0, len(samples), ROWS):
        rows = samples[top : top + ROWS]
        linear = np.stack([table[rows[..., channel]] for channel, table in enumerate(tables)], axis=-1) @ matrix
        if dtype == np.uint16:
            result[top : top + ROWS] = _quantise(srgb_encode(linear.astype(np.float64)), dtype)
        else:
            # A table is ten times faster than the power, and off by at most 0.03 code.
            codes = np.rint(np.clip(linear, 0, 1) * np.float32(65535)).astype(np.uint16)
            result[top : top + ROWS] = _encode_table()[codes]
    return result


def change_depth(samples: np.ndarray, dtype: type) -> np.ndarray:
    """uint8 <-> uint16 with rounding: v * 255 / 65535, or v * 257; the same array when it has `dtype`."""
    if samples.dtype == dtype:
        return samples
    if dtype == np.uint16:
        return samples.astype(np.uint16) * np.uint16(257)
    return ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


@functools.lru_cache(maxsize=1)
def _encode_table() -> np.ndarray:
    return _quantise(srgb_encode(np.arange(65536) / 65535), np.uint8)


@functools.lru_cache(maxsize=16)
def _linear_tables(icc: bytes, dtype: str) -> tuple[np.ndarray, ...]:
    codes = np.arange(np.iinfo(dtype).max + 1) / np.iinfo(dtype).max
    curves = _parse(icc).curves
    assert curves is not None  # or littlecms would convert
    return tuple(curve(codes).astype(np.float32) for curve in curves)


def _quantise(values: np.ndarray, dtype: type) -> np.ndarray:
    return np.rint(values * np.iinfo(dtype).max).astype(dtype)


def _by_littlecms(samples: np.ndarray, profile: Profile) -> np.ndarray:
    mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[profile.space]
    image = Image.fromarray(samples[..., 0] if mode == "L" else samples, mode=mode)
    try:
        converted = ImageCms.profileToProfile(
            image,
            ImageCms.ImageCmsProfile(io.BytesIO(profile.icc)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as error:
        raise ProfileError(str(error)) from None
    return np.asarray(converted)


def _parse(icc: bytes) -> Profile:
    if len(icc) < 132 or icc[36:40] != b"acsp":
        raise ProfileError("it has no ICC header")
    space = {b"RGB ": "RGB", b"GRAY": "GRAY", b"CMYK": "CMYK"}.get(icc[16:20])
    if space is None:
        raise ProfileError(f"its colour space {icc[16:20]!r} is not RGB, gray or CMYK")
    tags = _tags(icc)
    names = {"RGB": (b"rTRC", b"gTRC", b"bTRC"), "GRAY": (b"kTRC",), "CMYK": ()}[space]
    has_tables = b"A2B0" in tags or b"A2B1" in tags
    if not names or has_tables or icc[20:24] != b"XYZ ":
        return Profile(icc, space, None, None)
    wanted = names + ((b"rXYZ", b"gXYZ", b"bXYZ") if space == "RGB" else ())
    missing = [name.decode() for name in wanted if name not in tags]
    if missing:
        raise ProfileError(f"it lacks {', '.join(missing)}")
    curves = tuple(_curve(tags[name]) for name in names)
    if space == "GRAY":
        return Profile(icc, space, curves, None)
    columns = [tags[name] for name in wanted[3:]]
    if any(column[:4] != b"XYZ " for column in columns):
        raise ProfileError("a colorant tag is not of type XYZ")
    matrix = np.linalg.inv(_srgb_to_pcs()) @ np.stack([_fixed(column, 8, 3) for column in columns], axis=1)
    return Profile(icc, space, curves, matrix)


def _tags(icc: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", icc, 128)
    if count > 200:
        raise ProfileError(f"it claims {count} tags")
    tags = {}
    for index in range(count):
        name, start, size = struct.unpack_from(">4sII", icc, 132 + 12 * index)
        if start + size > len(icc):
            raise ProfileError(f"tag {name!r} lies beyond its end")
        tags[name] = icc[start : start + size]
    return tags


def _fixed(tag: bytes, start: int, count: int) -> np.ndarray:
    """`count` s15Fixed16 numbers of a tag."""
    return np.array(struct.unpack_from(f">{count}i", tag, start)) / 65536


@functools.lru_cache(maxsize=1)
def _srgb_to_pcs() -> np.ndarray:
    """Linear sRGB -> XYZ of the PCS."""
    return primaries_to_pcs(SRGB_CHROMATICITIES)


def primaries_to_pcs(chromaticities: Sequence[float]) -> np.ndarray:
    """(3, 3): linear RGB -> XYZ of the PCS (D50, by Bradford). chromaticities: white x y, red x y, green x y, blue x y.

    Raises ZeroDivisionError or LinAlgError for colours that span no space.
    """
    # Rounded: 1 - 0.64 - 0.33 is not quite 0.03, and the pixels of files with a profile must not move by it.
    points = [(x, y, round(1 - x - y, 6)) for x, y in zip(chromaticities[::2], chromaticities[1::2], strict=True)]
    if points[0][1] == 0:
        raise ZeroDivisionError("a white without light")
    white, primaries = np.array(points[0]) / points[0][1], np.array(points[1:]).T
    to_xyz = primaries * np.linalg.solve(primaries, white)
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    gain = (bradford @ PCS_WHITE) / (bradford @ white)
    return np.linalg.inv(bradford) @ np.diag(gain) @ bradford @ to_xyz


def _curve(tag: bytes) -> Curve:
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        table = np.array(struct.unpack_from(f">{count}H", tag, 12))
        if count == 0:
            return lambda x: x
        if count == 1:
            return lambda x: x ** (table[0] / 256)
        return lambda x: np.interp(x, np.linspace(0, 1, count), table / 65535)
    if tag[:4] == b"para":
        (kind,) = struct.unpack_from(">H", tag, 8)
        if kind not in PARAMETERS:
            raise ProfileError(f"tone curve of unknown type {kind}")
        return functools.partial(_parametric, kind, _fixed(tag, 12, PARAMETERS[kind]))
    raise ProfileError(f"tone curve of unknown kind {tag[:4]!r}")


def _parametric(kind: int, parameters: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The five function types of ICC.1:2010 table 65; values outside [0, 1] are clipped."""
    g, a, b, c, d, e, f = np.concatenate([parameters, np.zeros(7 - len(parameters))])
    if kind == 0:
        return np.clip(x, 0, 1) ** g
    power = np.clip(a * x + b, 0, None) ** g
    if kind in (1, 2):
        # Type 2 adds c on both sides; below -b/a the power is already 0.
        return np.clip(power + (c if kind == 2 else 0.0), 0, 1)
    return np.clip(np.where(x >= d, power + e, c * x + f), 0, 1)


@functools.lru_cache(maxsize=1)
def prophoto() -> bytes:
    """The ProPhoto RGB profile as Lightroom embeds it: matrix and pure gamma 1.80078."""
    return matrix_profile(PROPHOTO_COLORANTS, b"curv\0\0\0\0" + struct.pack(">IH", 1, PROPHOTO_GAMMA) + b"\0\0")


def matrix_profile(colorants: Iterable[Iterable[float]], curve: bytes, name: str = "") -> bytes:
    """An ICC profile for RGB. colorants: XYZ of red, green and blue, adapted to D50. curve: a tag, the same for each channel."""
    tags = {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"wtpt": _xyz(PCS_WHITE)}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, colorants), strict=True))
    if name:
        text = name.encode("ascii") + b"\0"
        tags[b"desc"] = (b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)).ljust(200, b"\0")
    start = 128 + 4 + 12 * len(tags)
    table, body = b"", b""
    for tag, content in tags.items():
        table += struct.pack(">4sII", tag, start + len(body), len(content))
        body += content
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header = (header + bytes(12) + b"acsp" + bytes(28) + _xyz(PCS_WHITE)[8:]).ljust(128, b"\0")
    return header + struct.pack(">I", len(tags)) + table + body


def power_tag(gamma: float) -> bytes:
    """A tone curve tag: code -> light = code ** gamma."""
    return para_tag(0, gamma)


def para_tag(kind: int, *parameters: float) -> bytes:
    """A parametric tone curve tag of ICC.1:2010 10.15; parameters g a b c d e f, as many as the kind has."""
    fixed = [round(value * 65536) for value in parameters]
    return b"para\0\0\0\0" + struct.pack(f">HH{len(fixed)}i", kind, 0, *fixed)


def _xyz(values: Iterable[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))
