"""ICC profiles that are assumed for files without one, built from their primaries and gamma (ICC.1:2010 section 7)."""

from __future__ import annotations

import functools
import struct

# Colorants of ProPhoto (ROMM) RGB adapted to D50, and the pure gamma 461/256 that FiveK's renditions carry: their
# embedded profile has no linear toe.
PROPHOTO_COLORANTS = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.8249))
PROPHOTO_GAMMA = 461
D50 = (0.9642, 1.0, 0.8249)


@functools.lru_cache(maxsize=1)
def prophoto() -> bytes:
    """The ProPhoto RGB profile as Lightroom embeds it: matrix and pure gamma 1.80078."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, PROPHOTO_GAMMA) + b"\0\0"
    tags = {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"wtpt": _xyz(D50)}
    tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, PROPHOTO_COLORANTS), strict=True))
    start = 128 + 4 + 12 * len(tags)
    table, body = b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, start + len(body), len(content))
        body += content
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header = (header + bytes(12) + b"acsp" + bytes(28) + _xyz(D50)[8:]).ljust(128, b"\0")
    return header + struct.pack(">I", len(tags)) + table + body


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))
