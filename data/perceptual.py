"""Image -> what tells whether another image looks the same: a 64-bit perceptual hash and a tone print.

Perceptual hash (pHash): the signs of the 8 x 8 lowest DCT frequencies of a 32 x 32 luma against their median (Zauner,
"Implementation and benchmarking of perceptual image hash functions", 2010, section 3.2.1). It follows the same upright picture
through other files and sizes.

Tone print: the 14 x 14 lowest DCT frequencies of the same luma with each value replaced by its rank (histogram equalisation).
Exposure, gamma and white balance keep the order of the tones, and so the print, but for what they clip. A mirrored or turned
picture has the same frequencies with other signs or transposed; those of a crop follow by a small matrix (`data/lookalikes.py`).
"""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

import numpy as np
from PIL import Image

LUMA_LENGTH = 32
KEPT = 8
FLAT_STD = 2.0  # in 8-bit codes; below it the signs are those of noise
TONE_KEPT = 14
FULL_SCALE = 127
ENOUGH_PIXELS = 256  # a side; averaging more of them as float is slow and changes no rank


def dct_rows(kept: int, places: np.ndarray) -> np.ndarray:
    """The `kept` lowest cosines of the orthonormal DCT over `LUMA_LENGTH` samples, at `places` (0 to 1): (kept, places) float64."""
    rows = np.cos(np.pi * np.outer(np.arange(kept), places)) * np.sqrt(2 / LUMA_LENGTH)
    rows[0] /= np.sqrt(2)
    return rows


CENTRES = (np.arange(LUMA_LENGTH) + 0.5) / LUMA_LENGTH
TONE_DCT = dct_rows(TONE_KEPT, CENTRES)
DCT = np.cos(np.pi * np.outer(np.arange(KEPT), CENTRES))  # without the scale: the hash compares the bare sums
# Photos have amplitudes of about 1 over the frequency; times the frequency, all of them count alike. 0 for the mean.
FREQUENCY = np.hypot(*np.indices((TONE_KEPT, TONE_KEPT)))


class Look(NamedTuple):
    """phash: 64 bits. tone: TONE_KEPT**2 signed bytes, the frequencies of the ranks. Both None for a flat image."""

    phash: int | None
    tone: bytes | None


FLAT = Look(None, None)


def look_of(image: np.ndarray) -> Look:
    """The look of (H, W, 3) uint8 sRGB; FLAT when its luma varies by less than 2 codes."""
    luma = Image.fromarray(image).convert("L")
    size = (LUMA_LENGTH, LUMA_LENGTH)
    small = np.asarray(luma.resize(size, Image.Resampling.BOX), dtype=np.float64)
    if small.std() < FLAT_STD:
        return FLAT
    frequencies = (DCT @ small @ DCT.T).ravel()
    phash = int.from_bytes(np.packbits(frequencies > np.median(frequencies)).tobytes(), "big")
    reduction = min(luma.size) // ENOUGH_PIXELS
    if reduction > 1:
        luma = luma.reduce(reduction)
    # As float: in a dark photo, rounding would make ties of most tones.
    return Look(phash, _tone_print(np.asarray(luma.convert("F").resize(size, Image.Resampling.BOX))))


def _tone_print(luma: np.ndarray) -> bytes:
    _, places, counts = np.unique(luma.round(3), return_inverse=True, return_counts=True)
    # The middle rank of equal tones: what an exposure clips stands where its tones stood on average.
    middle = np.cumsum(counts) - (counts + 1) / 2
    frequencies = TONE_DCT @ middle[places.reshape(luma.shape)] @ TONE_DCT.T * FREQUENCY
    return np.rint(frequencies * (FULL_SCALE / np.linalg.norm(frequencies))).astype(np.int8).tobytes()


def frequencies_of(tones: list[bytes | None]) -> np.ndarray:
    """Tone prints as (N, TONE_KEPT, TONE_KEPT) float32 of norm 1 each; 0 for None."""
    nothing = bytes(TONE_KEPT**2)
    values = np.frombuffer(b"".join(tone or nothing for tone in tones), dtype=np.int8).astype(np.float32)
    return unit(values.reshape(len(tones), TONE_KEPT, TONE_KEPT))


def unit(frequencies: np.ndarray) -> np.ndarray:
    """(..., K, K) with norm 1 over the last two axes; what is 0 stays 0."""
    norms = np.sqrt(np.einsum("...ij,...ij->...", frequencies, frequencies))
    return frequencies / np.maximum(norms, 1e-6)[..., None, None]


def text_of_hash(phash: int | None) -> str | None:
    """The hash as text: JSON readers outside Python cut whole numbers above 2**53."""
    return None if phash is None else f"{phash:016x}"


def text_of_tone(tone: bytes | None) -> str | None:
    """The tone print as text, base64."""
    return None if tone is None else base64.b64encode(tone).decode("ascii")


def look_of_texts(phash: object, tone: object) -> Look:
    """The look that `text_of_hash` and `text_of_tone` wrote; ValueError for anything else."""
    if phash is None and tone is None:
        return FLAT
    if not isinstance(phash, str) or not isinstance(tone, str):
        raise ValueError("not the texts of a look")
    try:
        found = Look(int(phash, 16), base64.b64decode(tone, validate=True))
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if found.phash is None or not 0 <= found.phash < 2**64 or found.tone is None or len(found.tone) != TONE_KEPT**2:
        raise ValueError("not the length of a look")
    return found
