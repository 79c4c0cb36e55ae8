"""Every bad or unusual input that was found on disks: rejected with its reason in rejected.csv, or read rightly. Never copied."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from data.fivek import pair
from tests.helpers.fivek_folder import (
    encoded,
    keys,
    metadata,
    put,
    put_pairs,
    reason_of,
    record,
    rejected,
    run,
    source,
    target,
)
from tests.helpers.fivek_tree import dng, prophoto_tiff
from tests.helpers.image_files import noise, png16, png_chunk, tiff

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own remarks on broken files


def large(seed: int) -> np.ndarray:
    """A source with enough detail that its file has a middle."""
    return (
        np.asarray(Image.fromarray(source(seed)).resize((320, 240), Image.Resampling.BICUBIC)) // 2
        + noise(seed, 320, 240) // 16
    )


def cut(content: bytes, part: float) -> bytes:
    return content[: int(len(content) * part)]


def bad_checksum() -> bytes:
    content = bytearray(encoded(large(5), "PNG"))
    start = content.index(b"IDAT")
    content[start + 4 + 100] ^= 255
    return bytes(content)


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b"")


def zeroed() -> bytes:
    content = bytearray(encoded(large(6)))
    middle = len(content) // 3
    content[middle : middle + 2000] = bytes(2000)
    return bytes(content)


def half_gray(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[image.shape[0] * 3 // 4 :] = 128
    return image


def pages() -> bytes:
    frames = [Image.fromarray(source(seed)) for seed in (7, 8)]
    return encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])


# Name of the input, its content, and what the reason says.
BAD_INPUTS = {
    "JPEG cut at 50 %": ("x.jpg", lambda: cut(encoded(large(1)), 0.5), "input: broken image: image file is truncated"),
    "JPEG cut at 99 %": ("x.jpg", lambda: cut(encoded(large(1)), 0.99), "input: broken image: image file is truncated"),
    "JPEG without its end": ("x.jpg", lambda: encoded(large(1))[:-2], "input: broken image: image file is truncated"),
    "JPEG with zeroed bytes": ("x.jpg", zeroed, "do not show the same thing"),
    "PNG cut": ("x.png", lambda: cut(encoded(large(1), "PNG"), 0.6), "input: broken image"),
    "PNG with a bad checksum": ("x.png", bad_checksum, "input: broken image"),
    "TIFF cut": ("x.tif", lambda: cut(prophoto_tiff(large(1), zipped=True), 0.6), "input: "),
    "empty": ("x.jpg", lambda: b"", "input: the file is empty"),
    "HTML": ("x.jpg", lambda: b"<!DOCTYPE html><html>404</html>", "input: the file holds HTML or XML"),
    "AppleDouble": (
        "x.jpg",
        lambda: b"\0\x05\x16\x07" + bytes(400),
        "input: the file is macOS side data (AppleDouble)",
    ),
    "text": ("x.tif", lambda: b"hello world, I am no image", "input: not an image"),
    "bomb": ("x.png", bomb, "input: more than 200 megapixels"),
    "float TIFF": ("x.tif", lambda: float_tiff(), "input: TIFF of 3 x 32-bit floating-point RGB is not read"),
    "two pages": ("x.tif", pages, "input: TIFF with 2 pages"),
    "broken profile": (
        "x.png",
        lambda: encoded(source(1), "PNG", icc_profile=b"x" * 300),
        "input: embedded ICC profile",
    ),
    "another photo": ("x.png", lambda: encoded(source(99), "PNG"), "do not show the same thing"),
    "upside down": ("x.png", lambda: encoded(source(1)[::-1, ::-1].copy(), "PNG"), "do not show the same thing"),
    "mirrored": ("x.png", lambda: encoded(source(1)[:, ::-1].copy(), "PNG"), "do not show the same thing"),
    "blank": ("x.png", lambda: encoded(np.full((48, 64, 3), 77, np.uint8), "PNG"), "one of the images is blank"),
    "filled with gray": ("x.png", lambda: encoded(half_gray(source(1)), "PNG"), "filled with one colour"),
    "too small": ("x.png", lambda: encoded(source(1, 36, 27), "PNG"), "too small: 36x27, --min_resolution is 32"),
    "cropped": ("x.png", lambda: encoded(source(1)[:, 8:].copy(), "PNG"), "shapes disagree: input 56x48, target 64x48"),
    "raw file cut": ("x.dng", lambda: cut(dng(source(1)), 0.5), "input: broken or unknown raw file"),
    "raw file that is HTML": ("x.dng", lambda: b"<html>", "input: the file holds HTML"),
    "raw file, empty": ("x.dng", lambda: b"", "input: the file is empty"),
    "raw file without balance": ("x.dng", lambda: dng(source(1), without=(50728,)), "no white balance in the raw file"),
    "preview only": (
        "x.tif",
        lambda: tiff(source(1), tags={254: (4, [1])}),
        "first page is only a preview",
    ),
    "not RGB": ("x.tif", lambda: encoded(Image.new("F", (64, 48)), "TIFF"), "input: "),
}


def float_tiff() -> bytes:
    tifffile = pytest.importorskip("tifffile")
    content = io.BytesIO()
    tifffile.imwrite(content, source(1).astype(np.float32), photometric="rgb", metadata=None)
    return content.getvalue()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run over all bad inputs, each with a sound target, and one sound pair."""
    pytest.importorskip("rawpy")
    pytest.importorskip("tifffile")
    folder = tmp_path_factory.mktemp("bad")
    sizes = {"JPEG with zeroed bytes": (6, 320, 240), "PNG with a bad checksum": (5, 320, 240)}
    for number, (what, (name, make, _)) in enumerate(BAD_INPUTS.items(), start=1):
        put(folder, f"fivek/input/a{number:04d}-{name}", make())
        seed, *size = sizes.get(what, (1,))
        put(folder, f"fivek/expertC/a{number:04d}-x.tif", prophoto_tiff(target(seed, *size)))
    put_pairs(folder / "fivek", [500])
    (folder / "fivek/output_expert_C/a0500-photo 2.jpeg").rename(folder / "fivek/expertC/a0500-photo 2.jpg")
    return folder / "out", run(folder / "fivek", folder / "out", "--workers", "2", "--val_ratio", "0")


@pytest.mark.parametrize("what", BAD_INPUTS)
def test_a_bad_input_is_rejected_with_its_reason(outcome, what):
    output, _ = outcome
    key = f"a{list(BAD_INPUTS).index(what) + 1:04d}"
    assert BAD_INPUTS[what][2] in reason_of(output, key)
    row = next(row for row in rejected(output) if row["key"] == key)
    assert row["status"] == "rejected" and row["input"].startswith("input/") and row["target"].startswith("expertC/")
    assert not list((output / "images").glob(f"{key}*")), "rejected, never copied"


def test_the_reasons_hold_no_path_of_this_machine(outcome):
    output, _ = outcome
    assert str(output.parent) not in (output / "rejected.csv").read_text()


def test_the_sound_pair_beside_them_survives_and_the_exit_code_tells(outcome):
    output, code = outcome
    assert code == 3 and keys(output, "train") == {"a0500"}
    counts = metadata(output)
    assert counts["rejected_pairs"] == len(BAD_INPUTS) and sum(counts["reasons"].values()) == len(BAD_INPUTS)


@pytest.mark.parametrize("what", ["JPEG cut at 99 %", "HTML", "filled with gray", "blank", "another photo"])
def test_a_bad_target_is_rejected_too(tmp_path, what):
    name, make, reason = BAD_INPUTS[what]
    put(tmp_path, f"fivek/expertC/a0001-{name}", make())
    put(tmp_path, "fivek/input/a0001-x.png", encoded(source(1), "PNG"))
    assert run(tmp_path / "fivek", tmp_path / "out") == 3
    assert reason.replace("input:", "target:") in reason_of(tmp_path / "out", "a0001")


def cmyk(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image).convert("CMYK")


def transparent(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.dstack([image, np.full(image.shape[:2], 255, np.uint8)]))


def gray16(image: np.ndarray) -> bytes:
    return png16(np.asarray(Image.fromarray(image).convert("L")).astype(np.uint16)[..., None] * 257)


# Unusual, but sound: name and content of the input.
UNUSUAL = {
    "PNG called jpg": ("x.jpg", lambda image: encoded(image, "PNG")),
    "WebP called jpg": ("x.jpg", lambda image: encoded(image, "WEBP", lossless=True)),
    "several JPEG in one": ("x.jpg", lambda image: encoded(image, "MPO", save_all=True, quality=95)),
    "CMYK JPEG": ("x.jpg", lambda image: encoded(cmyk(image), "JPEG", quality=95)),
    "CMYK TIFF": ("x.tif", lambda image: encoded(cmyk(image), "TIFF")),
    "16-bit gray PNG": ("x.png", gray16),
    "16-bit RGB PNG": ("x.png", lambda image: png16(image.astype(np.uint16) * 257)),
    "opaque RGBA": ("x.png", lambda image: encoded(transparent(image), "PNG")),
    "palette": ("x.png", lambda image: encoded(Image.fromarray(image).quantize(200), "PNG")),
    "gray JPEG": ("x.jpg", lambda image: encoded(Image.fromarray(image).convert("L"))),
}


def test_unusual_files_are_read_by_their_content(tmp_path):
    for number, (name, make) in enumerate(UNUSUAL.values(), start=1):
        put(tmp_path, f"fivek/input/a{number:04d}-{name}", make(source(number)))
        put(tmp_path, f"fivek/output/a{number:04d}-x.png", encoded(target(number), "PNG"))
    assert run(tmp_path / "fivek", tmp_path / "out", "--val_ratio", "0", "--max_reject", "1") == 0
    assert rejected(tmp_path / "out") == []
    for number, what in enumerate(UNUSUAL, start=1):
        written = Image.open(tmp_path / f"out/images/a{number:04d}_src.jpg").convert("L")
        plain = Image.fromarray(source(number)).convert("L")
        assert np.abs(np.asarray(written).astype(int) - plain).mean() < 3, what


def test_hidden_pixels_of_a_transparent_file_do_not_appear(tmp_path):
    picture = np.dstack([source(1), np.full((48, 64), 255, np.uint8)])
    picture[:10, :10, 3] = 0
    put(tmp_path, "fivek/input/a0001.png", encoded(picture, "PNG"))
    bright = target(1)
    bright[:10, :10] = 255
    put(tmp_path, "fivek/output/a0001.png", encoded(bright, "PNG"))
    assert run(tmp_path / "fivek", tmp_path / "out") == 0
    assert np.asarray(Image.open(tmp_path / "out/images/a0001_src.jpg"))[:6, :6].min() > 245


def test_auto_wb_takes_what_is_rejected_otherwise(tmp_path):
    pytest.importorskip("rawpy")
    pytest.importorskip("tifffile")
    put(tmp_path, "fivek/raw/a0001.dng", dng(source(1), without=(50728,)))
    put(tmp_path, "fivek/c/a0001.tif", prophoto_tiff(target(1)))
    assert run(tmp_path / "fivek", tmp_path / "out") == 3
    assert run(tmp_path / "fivek", tmp_path / "out", "--auto_wb") == 0
    assert record(tmp_path / "out", "a0001")["status"] == "pair"


def test_a_file_that_vanishes_is_rejected_for_now_only(tmp_path, monkeypatch):
    put_pairs(tmp_path / "fivek", [1, 2, 3])
    real = pair.read_file

    def gone(path):
        if path.name.startswith("a0002-") and path.parent.name == "input":
            raise OSError(5, "Input/output error")
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(pair, "read_file", gone)
        assert run(tmp_path / "fivek", tmp_path / "out") == 3
    assert "cannot be read: Input/output error" in reason_of(tmp_path / "out", "a0002")
    assert run(tmp_path / "fivek", tmp_path / "out") == 0
