"""Two luma images of one size -> shift, rotation and scale from the content of the first to that of the second.

Blocks are matched by phase correlation, which a change of exposure or colour leaves alone (Kuglin and Hines, "The phase
correlation image alignment method", 1975), with a Gaussian weight on low frequencies, so that the peak is a Gaussian
whose place a parabola through its logarithm gives to a fraction of a pixel. A similarity is fitted to the displacements
of the blocks by RANSAC and least squares on what agrees (Fischler and Bolles, 1981): people and curtains may move.

Places and displacements are complex numbers, right + i down, in pixels from the image's centre. A motion (shift, turn)
takes the content at p to p + shift + turn * p.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image

BLOCK = 64  # pixels; half of it where a side has less than two blocks
COARSE_SIDE = 256
MOST_BLOCKS = 96
FLAT = 0.004  # standard deviation of a block's luma; below it there is nothing to match
BAND = 0.15  # standard deviation of the weight on frequencies, in cycles a pixel
REACH = 0.375  # of a block: a displacement beyond it is not looked for
AGREE = 1.0  # pixels between a block's displacement and the motion's, for it to count
DRAWS = 256
FEWEST = 4  # blocks that must agree


@dataclass(frozen=True)
class Alignment:
    """shift: (right, down) in pixels. rotation: degrees, clockwise. scale: 1.01 is 1 % larger.

    rms: pixels that the content is off, root mean square over the frame. agreeing: share (0 to 1) of the blocks that
    move as the rest does; blocks: how many were matched.
    """

    shift: tuple[float, float]
    rotation: float
    scale: float
    rms: float
    agreeing: float
    blocks: int

    def scaled(self, factor: float) -> Alignment:
        """The same alignment for the images at `factor` times the size."""
        shift = (self.shift[0] * factor, self.shift[1] * factor)
        return dataclasses.replace(self, shift=shift, rms=self.rms * factor)

    @property
    def turned(self) -> complex:
        """Rotation and scale as one factor."""
        return self.scale * complex(np.exp(1j * np.radians(self.rotation)))

    def displacement(self, place: complex) -> complex:
        """How far the content at `place`, from the centre, is off."""
        return complex(*self.shift) + (self.turned - 1) * place


@dataclass(frozen=True)
class _Motion:
    shift: complex
    turn: complex
    agreeing: float
    blocks: int


def align(first: np.ndarray, second: np.ndarray) -> Alignment | None:
    """Align two float32 (H, W) images in [0, 1]; None when they are too small or too flat, or no four blocks agree.

    Shifts up to half the frame are found, and rotations up to about 5 degrees.
    """
    if first.shape != second.shape:
        raise ValueError(f"images of {first.shape} and {second.shape} cannot be aligned")
    if min(first.shape) < BLOCK // 2:
        return None
    # A panorama's short side must still hold a block.
    reduction = max(1.0, min(max(first.shape) / COARSE_SIDE, min(first.shape) / (BLOCK // 2)))
    coarse = [first, second]
    if reduction > 1.0:
        size = (round(first.shape[1] / reduction), round(first.shape[0] / reduction))
        coarse = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in coarse]
    window = _window(*coarse[0].shape)
    frames = [(image - image.mean())[None] * window for image in coarse]
    motion = _match(coarse[0], coarse[1], _Motion(complex(_peaks(_correlation(*frames), reach=0.5)[0]), 0j, 1.0, 0))
    if motion is None:
        return None
    # Again with blocks cut where the first motion says: what remains to be found is a fraction of a pixel.
    motion = _match(first, second, dataclasses.replace(motion, shift=motion.shift * reduction))
    if motion is None:
        return None
    spread = (first.shape[0] ** 2 + first.shape[1] ** 2) / 12  # mean squared distance of a pixel from the centre
    turned = 1 + motion.turn
    return Alignment(
        shift=(float(motion.shift.real), float(motion.shift.imag)),
        rotation=float(np.degrees(np.angle(turned))),
        scale=float(abs(turned)),
        rms=float(np.sqrt(abs(motion.shift) ** 2 + abs(motion.turn) ** 2 * spread)),
        agreeing=motion.agreeing,
        blocks=motion.blocks,
    )


def _match(first: np.ndarray, second: np.ndarray, start: _Motion) -> _Motion | None:
    """Match blocks of `first` around where the motion `start` puts them; the motion that most of them agree on."""
    size = BLOCK if min(first.shape) >= 2 * BLOCK else BLOCK // 2
    height, width = first.shape
    right, down = _block_corners(first.shape, size)
    places = (right - (width - size) / 2) + 1j * (down - (height - size) / 2)
    offsets = start.shift + start.turn * places
    to_right, to_down = right + np.rint(offsets.real).astype(int), down + np.rint(offsets.imag).astype(int)
    inside = (to_right >= 0) & (to_down >= 0) & (to_right + size <= width) & (to_down + size <= height)
    blocks = _cut(first, right[inside], down[inside], size)
    others = _cut(second, to_right[inside], to_down[inside], size)
    texture = np.minimum(blocks.std(axis=(1, 2)), others.std(axis=(1, 2)))
    kept = np.argsort(-texture, kind="stable")[:MOST_BLOCKS]
    kept = kept[texture[kept] > FLAT]
    if len(kept) < FEWEST:
        return None
    window = _window(size, size)
    stacks = [(stack[kept] - stack[kept].mean(axis=(1, 2), keepdims=True)) * window for stack in (blocks, others)]
    whole = (to_right - right + 1j * (to_down - down))[inside][kept]
    return _agreed_motion(places[inside][kept], whole + _peaks(_correlation(*stacks), REACH))


def _agreed_motion(places: np.ndarray, moves: np.ndarray) -> _Motion | None:
    """The motion that most of the displacements `moves` at `places` agree on; None when fewer than four do."""
    one, other = np.random.default_rng(0).integers(0, len(places), (2, DRAWS))
    apart = np.abs(places[one] - places[other]) > BLOCK / 2
    one, other = one[apart], other[apart]
    turns = (moves[one] - moves[other]) / (places[one] - places[other])
    # A shift alone is a candidate too: a few blocks side by side cannot tell a rotation.
    middle = np.median(moves.real) + 1j * np.median(moves.imag)
    turns, shifts = np.append(turns, 0), np.append(moves[one] - turns * places[one], middle)
    misses = np.abs(shifts[:, None] + turns[:, None] * places - moves)
    agreeing = misses[(misses < AGREE).sum(axis=1).argmax()] < AGREE
    for _ in range(3):
        if agreeing.sum() < FEWEST:
            return None
        centre, shift = places[agreeing].mean(), moves[agreeing].mean()
        centred = places[agreeing] - centre
        # The least-squares fit to what agrees.
        turn = (centred.conj() * (moves[agreeing] - shift)).sum() / max((np.abs(centred) ** 2).sum(), 1.0)
        shift = shift - turn * centre
        agreeing = np.abs(shift + turn * places - moves) < AGREE
    return _Motion(complex(shift), complex(turn), float(agreeing.mean()), len(places))


def _block_corners(shape: tuple[int, int], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Left and top edges of blocks that overlap by half and cover the frame."""
    tops, lefts = (np.linspace(0, length - size, round(2 * length / size) - 1).round().astype(int) for length in shape)
    down, right = np.meshgrid(tops, lefts, indexing="ij")
    return right.ravel(), down.ravel()


def _cut(image: np.ndarray, right: np.ndarray, down: np.ndarray, size: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(image, (size, size))[down, right]


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Phase correlation (N, H, W) of two stacks of images: a peak at the displacement of `second`."""
    cross = np.conj(np.fft.rfft2(first)) * np.fft.rfft2(second)
    cross *= _band(first.shape[-2:]) / np.maximum(np.abs(cross), 1e-12)
    return np.fft.irfft2(cross, s=first.shape[-2:])


@functools.lru_cache(maxsize=8)
def _band(shape: tuple[int, int]) -> np.ndarray:
    squared = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.rfftfreq(shape[1])[None] ** 2
    return np.exp(-squared / (2 * BAND**2)).astype(np.float32)


def _peaks(surface: np.ndarray, reach: float) -> np.ndarray:
    """The (N,) displacements of the highest points, to a fraction of a pixel, up to `reach` times the size."""
    count, height, width = surface.shape
    centred = np.fft.fftshift(surface, axes=(1, 2))
    top, left = height // 2 - int(reach * height), width // 2 - int(reach * width)
    inner = centred[:, top : height - top, left : width - left]
    rows, columns = np.divmod(inner.reshape(count, -1).argmax(axis=1), inner.shape[2])
    rows, columns, index = rows + top, columns + left, np.arange(count)
    down = _vertex(*(centred[index, (rows + step) % height, columns] for step in (-1, 0, 1)))
    right = _vertex(*(centred[index, rows, (columns + step) % width] for step in (-1, 0, 1)))
    return (columns - width // 2 + right) + 1j * (rows - height // 2 + down)


def _vertex(before: np.ndarray, here: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Where, between -0.5 and 0.5, the Gaussian through three points has its top."""
    before, here, after = (np.log(np.maximum(values, 1e-9)) for values in (before, here, after))
    bend = before - 2 * here + after
    return np.clip(0.5 * (before - after) / np.where(bend < 0, bend, -1.0), -0.5, 0.5)


def _window(height: int, width: int) -> np.ndarray:
    return np.outer(*(np.hanning(length + 2)[1:-1].astype(np.float32) for length in (height, width)))
