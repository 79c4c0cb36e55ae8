"""Makes small image files that Pillow cannot write: 16-bit colour PNG and TIFF, ICC profiles; and pairs of noise."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

# ProPhoto (ROMM) primaries, adapted to D50.
PROPHOTO = np.array([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.8249]])
PCS_WHITE = np.array([0.9642, 1.0, 0.8249])

# Bradford-adapted sRGB primaries as ICC profiles publish them (IEC 61966-2-1, D50).
SRGB_D50 = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)


def reference(codes: np.ndarray, curve, columns: np.ndarray = PROPHOTO) -> np.ndarray:
    """sRGB codes, unrounded, for 8-bit `codes`, in float64."""
    linear = curve(codes.astype(np.float64) / 255) @ (np.linalg.inv(SRGB_D50) @ columns).T
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def noise(seed: int, width: int = 16, height: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    """The image as the content of a file of that kind."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def rounded(samples: np.ndarray) -> np.ndarray:
    """16 bits -> 8 bits in float64."""
    return np.floor(samples.astype(np.float64) * 255 / 65535 + 0.5).astype(np.uint8)


def save(image: np.ndarray, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_pairs(
    folder: Path, count: int, groups: dict[int, str] | None = None, size: tuple[int, int] = (16, 12)
) -> Path:
    """`count` pairs of noise images as PNG below `folder`; returns its pairs.jsonl."""
    rows = []
    for number in range(count):
        row = {}
        for side, seed in (("src", 2 * number), ("tar", 2 * number + 1)):
            row[side] = f"images/{number}_{side}.png"
            save(noise(seed, *size), folder / row[side], compress_level=1)
        if groups and number in groups:
            row["group"] = groups[number]
        rows.append(row)
    return write_rows(folder / "pairs.jsonl", rows)


def turned(upright: np.ndarray, orientation: int) -> np.ndarray:
    """How a camera stores `upright` under an EXIF orientation: the inverse of what the EXIF standard says to do."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return np.ascontiguousarray(undo[orientation](upright))


def png16(samples: np.ndarray, extra_chunks: bytes = b"") -> bytes:
    """(H, W, C) uint16 -> PNG with 16 bits; its rows use all five filter types in turn."""
    height, width, channels = samples.shape
    raw = samples.astype(">u2").reshape(height, -1).view(np.uint8).astype(np.int32)
    step = 2 * channels
    above = np.zeros(raw.shape[1], np.int32)
    rows = []
    for number, row in enumerate(raw):
        left, corner = (np.concatenate([np.zeros(step, np.int32), line[:-step]]) for line in (row, above))
        guess = left + above - corner
        distance = [abs(guess - line) for line in (left, above, corner)]
        paeth = np.where(
            (distance[0] <= distance[1]) & (distance[0] <= distance[2]),
            left,
            np.where(distance[1] <= distance[2], above, corner),
        )
        predicted = [0, left, above, (left + above) // 2, paeth][number % 5]
        rows.append(bytes([number % 5]) + ((row - predicted) % 256).astype(np.uint8).tobytes())
        above = row
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = png_chunk(b"IDAT", zlib.compress(b"".join(rows))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra_chunks + body


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def iccp_chunk(icc: bytes) -> bytes:
    return png_chunk(b"iCCP", b"p\0\0" + zlib.compress(icc))


def tiff(samples: np.ndarray, order: str = "<", zipped: bool = False, tags: dict | None = None) -> bytes:
    """(H, W, C) uint16 or uint8 -> classic TIFF in three strips; `tags` {number: (type 1, 3 or 4, values)}."""
    height, width, channels = samples.shape
    strip_rows = max(1, -(-height // 3))
    depth = samples.dtype.itemsize
    strips, offsets, data = [], [], b""
    for top in range(0, height, strip_rows):
        strip = samples[top : top + strip_rows]
        if zipped:
            differences = strip.astype(np.int64)
            differences[:, 1:] -= strip[:, :-1].astype(np.int64)
            strip = (differences % 256**depth).astype(samples.dtype)
        strip = strip.astype(f"{order}u{depth}").tobytes()
        strips.append(zlib.compress(strip) if zipped else strip)
        offsets.append(8 + len(data))
        data += strips[-1] + b"\0" * (len(strips[-1]) % 2)
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * depth] * channels),
        259: (3, [8 if zipped else 1]),
        262: (3, [1 if channels == 1 else 2]),
        273: (4, offsets),
        277: (3, [channels]),
        278: (4, [strip_rows]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [1]),
    }
    entries |= {317: (3, [2])} if zipped else {}
    entries |= {338: (3, [2])} if channels == 4 else {}
    entries = {number: entry for number, entry in (entries | (tags or {})).items() if entry is not None}
    directory = 8 + len(data)
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(order + "I", directory)
        + data
        + _ifd(entries, order, directory)
    )


def _ifd(entries: dict, order: str, start: int) -> bytes:
    body, far, far_start = b"", b"", start + 2 + 12 * len(entries) + 4
    for number in sorted(entries):
        kind, values = entries[number]
        raw = struct.pack(f"{order}{len(values)}{'BHI'[(1, 3, 4).index(kind)]}", *values)
        count = len(values)
        if len(raw) > 4:
            raw, far = struct.pack(order + "I", far_start + len(far)), far + raw + b"\0" * (len(raw) % 2)
        body += struct.pack(order + "HHI", number, kind, count) + raw.ljust(4, b"\0")
    return struct.pack(order + "H", len(entries)) + body + struct.pack(order + "I", 0) + far


def curv(*values: int) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{len(values)}H", len(values), *values)


def para(kind: int, *values: float) -> bytes:
    fixed = [round(value * 65536) for value in values]
    return b"para\0\0\0\0" + struct.pack(f">HH{len(values)}i", kind, 0, *fixed)


def icc_profile(curves: list[bytes], columns: np.ndarray | None, space: bytes = b"RGB ", pcs: bytes = b"XYZ ") -> bytes:
    """A display profile of about 500 bytes from tone curves and (for RGB) a matrix of XYZ columns."""
    tags = dict(zip([b"rTRC", b"gTRC", b"bTRC"] if columns is not None else [b"kTRC"], curves, strict=True))
    if columns is not None:
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns.T, strict=True):
            tags[name] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in column))
    tags[b"wtpt"] = b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in PCS_WHITE))
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78 + 1)
    tags[b"cprt"] = b"text\0\0\0\0none"
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(data), len(content))
        data += content + b"\0" * (-len(content) % 4)
    size = start + len(data)
    header = (
        struct.pack(">I4sI4s4s4s", size, b"test", 0x02400000, b"mntr", space, pcs) + bytes(12) + b"acsp" + bytes(28)
    )
    header += struct.pack(">3i", *(round(value * 65536) for value in PCS_WHITE)) + bytes(48)
    return header + struct.pack(">I", len(tags)) + table + data


# The profile of ProPhoto with the gamma of FiveK's renditions.
ROMM = icc_profile([curv(461)] * 3, PROPHOTO)
