"""Bad and odd images for make fuzz. What is accepted must have the digest of pixels that were decoded without the project."""

import hashlib
import io
import json
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tests.fuzz.case import Case, split_case
from tests.helpers import image_files
from tests.helpers.image_files import png16, png_chunk, tiff

SIZE = (20, 14)
LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "WEBP": {"lossless": True, "exact": True}}
Pixels = np.ndarray


def photo(dice: random.Random, width: int = SIZE[0], height: int = SIZE[1], channels: int = 3) -> Pixels:
    """Noise: uint8 (height, width, channels)."""
    return np.frombuffer(dice.randbytes(width * height * channels), np.uint8).reshape(height, width, channels)


def encoded(image: Image.Image | Pixels, kind: str, **options) -> bytes:
    """The image as a file of that kind, without loss where the kind allows it."""
    return image_files.encoded(image, kind, **{**LOSSLESS.get(kind, {}), **options})


def plain_pixels(content: bytes) -> Pixels | None:
    """An independent decode through Pillow's own conversions; None where those do not do what the project promises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = Image.open(io.BytesIO(content))
        deep = image.mode.startswith(("I", "F")) or ";16" in str(image.tile)
        if deep or "icc_profile" in image.info or image.info.get("transparency") is not None:
            return None
        image.load()
        if image.mode not in ("1", "L", "P", "RGB", "CMYK", "YCbCr"):
            return None
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _any_kind(dice: random.Random) -> tuple[Pixels, bytes]:
    pixels = photo(dice)
    kind = dice.choice(["PNG", "TIFF", "BMP", "WEBP", "JPEG", "JPEG"])
    return pixels, encoded(pixels, kind)


def _oriented(dice: random.Random) -> tuple[bytes, Pixels]:
    orientation, pixels = dice.randrange(1, 9), photo(dice, *(SIZE if dice.random() < 0.5 else SIZE[::-1]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = encoded(pixels, dice.choice(["PNG", "TIFF", "WEBP"]), exif=exif.tobytes())
    turns = {1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.swapaxes(0, 1)}
    turns |= {6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).swapaxes(0, 1), 8: np.rot90(pixels)}
    return content, turns[orientation]


def _deep(dice: random.Random) -> tuple[bytes, Pixels]:
    channels = dice.choice([1, 3])
    samples = np.frombuffer(dice.randbytes(2 * SIZE[0] * SIZE[1] * channels), np.uint16).reshape(
        SIZE[1], SIZE[0], channels
    )
    content = png16(samples) if dice.random() < 0.5 else tiff(samples, dice.choice("<>"), dice.random() < 0.5)
    return content, np.repeat(np.rint(samples / 257).astype(np.uint8), 3 // channels, axis=2)


def _alpha(dice: random.Random) -> tuple[bytes, Pixels]:
    pixels = photo(dice, channels=4)
    weight = pixels[..., 3:].astype(float) / 255
    mixed = np.floor(pixels[..., :3] * weight + 255 * (1 - weight) + 0.5 + 1e-9).astype(np.uint8)
    return encoded(Image.fromarray(pixels, "RGBA"), dice.choice(["PNG", "TIFF"])), mixed


def _gray(dice: random.Random) -> tuple[bytes, Pixels]:
    pixels = photo(dice, channels=1)
    return encoded(pixels[..., 0], dice.choice(["PNG", "TIFF", "BMP"])), np.repeat(pixels, 3, axis=2)


def _palette(dice: random.Random) -> tuple[bytes, Pixels]:
    index, colours = photo(dice, channels=1)[..., 0], photo(dice, 256, 1)[0]
    image = Image.fromarray(index, "P")
    image.putpalette(colours.tobytes())
    return encoded(image, dice.choice(["PNG", "TIFF", "BMP"])), colours[index]


def _two_colours(dice: random.Random) -> tuple[bytes, Pixels]:
    bits = photo(dice, channels=1)[..., 0] > 127
    return encoded(Image.fromarray(bits), dice.choice(["PNG", "TIFF"])), np.repeat(
        np.uint8(255) * bits[..., None], 3, axis=2
    )


def _cmyk(dice: random.Random) -> tuple[bytes, Pixels]:
    image = Image.fromarray(photo(dice, channels=4), "CMYK")
    content = encoded(image, dice.choice(["TIFF", "JPEG"]))
    return content, np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _plain(dice: random.Random) -> tuple[bytes, Pixels]:
    pixels = photo(dice)
    return encoded(pixels, dice.choice(list(LOSSLESS))), pixels


def _jpeg(dice: random.Random) -> tuple[bytes, Pixels]:
    content = encoded(photo(dice), "JPEG", quality=dice.randrange(40, 96), progressive=dice.random() < 0.5)
    return content, np.asarray(Image.open(io.BytesIO(content)))


# Must be accepted with exactly these pixels.
ACCEPTED: dict[str, Callable[[random.Random], tuple[bytes, Pixels]]] = {
    "plain, also with a wrong extension": _plain,
    "JPEG": _jpeg,
    "EXIF orientation 1 to 8": _oriented,
    "16 bit": _deep,
    "alpha": _alpha,
    "gray": _gray,
    "palette": _palette,
    "two colours": _two_colours,
    "CMYK": _cmyk,
}


def _bomb(dice: random.Random) -> bytes:
    header = struct.pack(">IIBBBBB", 20_000, dice.randrange(10_001, 2**31), 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b"")


def _frames(dice: random.Random, kind: str) -> bytes:
    more = [Image.fromarray(photo(dice)) for _ in range(2)]
    return encoded(photo(dice), kind, save_all=True, append_images=more)


def _cut(dice: random.Random) -> bytes:
    content = _any_kind(dice)[1]
    return content[: dice.randrange(1, int(0.95 * len(content)))]


# Must be refused, by the name of the file and its row.
REFUSED: dict[str, Callable[[random.Random], bytes]] = {
    "empty": lambda dice: b"",
    "HTML, JSON, text": lambda dice: dice.choice([b"<!DOCTYPE html><html>", b'{"a": 1}', b"hello", b"%PDF-1.4"]),
    "GIF, HEIC, pointer, side data": lambda dice: dice.choice(
        [
            b"GIF89a" + bytes(50),
            b"\0\0\0\x18ftypheic" + bytes(50),
            b"version https://git-lfs",
            b"\0\x05\x16\x07" + bytes(99),
        ]
    ),
    "cut": _cut,
    "decompression bomb": _bomb,
    "animation or pages": lambda dice: _frames(dice, dice.choice(["PNG", "WEBP", "TIFF"])),
    "1 x 1": lambda dice: encoded(photo(dice, 1, 1), "PNG"),
    "too small": lambda dice: encoded(photo(dice, dice.randrange(2, 11), 14), "PNG"),
    "another size than its partner": lambda dice: encoded(
        photo(dice, SIZE[0] + dice.choice([-1, 1, 5]), SIZE[1]), "BMP"
    ),
    "turned": lambda dice: encoded(photo(dice, *SIZE[::-1]), "PNG"),
    "float samples": lambda dice: encoded(Image.new("F", SIZE), "TIFF"),
    "broken profile": lambda dice: encoded(photo(dice), "PNG", icc_profile=dice.randbytes(200)),
    "any bytes": lambda dice: dice.randbytes(dice.randrange(1, 500)),
}


def _changed_bytes(dice: random.Random) -> bytes:
    content = bytearray(dice.choice([_any_kind(dice)[1], _deep(dice)[0], _palette(dice)[0], _oriented(dice)[0]]))
    for _ in range(dice.choice([1, 1, 2, 4])):
        content[dice.randrange(len(content))] = dice.randrange(256)
    return bytes(content)


def _moved_bytes(dice: random.Random) -> bytes:
    content = _any_kind(dice)[1]
    place = dice.randrange(len(content))
    return content[:place] + dice.choice([b"", dice.randbytes(5)]) + content[place + dice.randrange(5) :]


# May go either way: what is accepted is compared with an independent decode.
EITHER = {"bytes changed": _changed_bytes, "bytes inserted or lost": _moved_bytes}


def image_cases(base: Path, count: int, dice: random.Random, folders) -> list[Case]:
    """`count` cases: the good pairs of `base` and one with the image in question, as its source or its target."""
    kinds = [*ACCEPTED, *REFUSED, *[*EITHER] * 8]
    cases = []
    for number in range(count):
        kind, folder = kinds[number % len(kinds)], next(folders)
        pixels, codes = None, (0, 2)
        if kind in ACCEPTED:
            content, pixels = ACCEPTED[kind](dice)
            codes = (0,)
        else:
            content = {**REFUSED, **EITHER}[kind](dice)
            codes = (2,) if kind in REFUSED else (0, 2)
        side = dice.choice(["src", "tar"])
        names = {key: f"odd_{key}.{dice.choice(['jpg', 'png', 'tif', 'JPEG'])}" for key in ("src", "tar")}
        height, width = (SIZE[1], SIZE[0]) if pixels is None else pixels.shape[:2]
        (folder / names[side]).write_bytes(content)
        other = "tar" if side == "src" else "src"
        (folder / names[other]).write_bytes(encoded(photo(dice, width, height), "PNG"))
        row = json.dumps({key: str(folder / name) for key, name in names.items()}).encode()
        (folder / "pairs.jsonl").write_bytes((base / "pairs.jsonl").read_bytes() + row + b"\n")
        case = split_case(f"image: {kind}", base, folder, codes, (names[side],))
        case.accepted = _digest_check(side, folder / names[side], pixels)
        cases.append(case)
    return cases


def _digest_check(side: str, path: Path, pixels: Pixels | None) -> Callable[[Case], str | None]:
    def check(case: Case) -> str | None:
        rows = [json.loads(line) for name in ("test", "fold_1/train", "fold_1/val")
                for line in (case.output / f"{name}.jsonl").read_text("utf-8").splitlines()]  # fmt: skip
        found = next((row for row in rows if row[side] == str(path)), None)
        if found is None:
            return "the row is not in the output"
        try:
            wanted = plain_pixels(path.read_bytes()) if pixels is None else pixels
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
            return f"accepted, but Pillow says: {error}"
        if wanted is None:
            return None
        height, width = wanted.shape[:2]
        digest = hashlib.sha256(f"{width}x{height}:".encode() + np.ascontiguousarray(wanted).tobytes()).hexdigest()
        return None if digest == found[f"{side}_sha256"] else "other pixels than those of an independent decode"

    return check
