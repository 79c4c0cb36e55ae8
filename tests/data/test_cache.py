"""The cache of decoded pairs: the same pixels and results as without it, decoded once, rebuilt when damaged."""

import errno
import json
import multiprocessing
import shutil
from collections import namedtuple

import numpy as np
import pytest

import train_darkir_cv
from common.errors import InputError
from darkir.checkpoint_file import read_checkpoint
from data import cache, images
from data.cache import open_cache
from data.dataset import decoded_pair, frame_size
from data.fingerprint import fingerprint_pairs
from data.manifest import read_pairs
from engine.training import feed
from tests.helpers.photos import write_pairs

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def pairs(tmp_path):
    return fingerprint_pairs(read_pairs(write_pairs(tmp_path, 4, first_seed=800, width=30, height=22)))


def opened(pairs, folder, resolution=16, fit="crop", mode="auto"):
    lines = []
    return open_cache(pairs, resolution, fit, mode, folder, lines.append), lines


@pytest.mark.parametrize(("resolution", "fit"), [(16, "crop"), (40, "crop"), (16, "squash")])
def test_a_cached_pair_is_the_decoded_pair(pairs, tmp_path, resolution, fit):
    cached, _ = opened(pairs, tmp_path / "cache", resolution, fit)
    for pair in pairs:
        for enlarge in (True, False):
            size = frame_size(pair, resolution, fit, enlarge)
            for ours, theirs in zip(cached(pair, size), decoded_pair(pair, size), strict=True):
                assert np.array_equal(ours, theirs)


def test_the_log_counts_pairs_and_not_their_sizes(pairs, tmp_path):
    # Photos of 30 x 22 pixels grow to 40 for training and stay as they are for validation: two entries a pair.
    lines = opened(pairs, tmp_path / "cache", 40)[1]
    assert "decoding 4 pairs" in lines[0] and "4 pairs in" in lines[-1]
    index = json.loads(next((tmp_path / "cache").glob("*.json")).read_text())
    assert len(index) == 8 and list(index.values()) == sorted(index.values())


def test_photos_are_decoded_once(pairs, tmp_path, monkeypatch):
    _, lines = opened(pairs, tmp_path / "cache")
    assert "decoding 4 pairs" in lines[0]
    monkeypatch.setattr(images, "decode", lambda path: pytest.fail(f"{path} was decoded again"))
    again, lines = opened(pairs[::-1], tmp_path / "cache")  # in any order: folds share it
    assert "4 pairs in" in lines[0] and again(pairs[0], (22, 16))[0].shape == (3, 16, 22)


def test_another_resolution_is_another_pack(pairs, tmp_path):
    opened(pairs, tmp_path / "cache", 16)
    opened(pairs, tmp_path / "cache", 17)
    assert len(list((tmp_path / "cache").glob("*.pack"))) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "no index", "torn index", "nested index"])
def test_a_damaged_pack_is_built_anew(pairs, tmp_path, damage):
    whole, _ = opened(pairs, tmp_path / "cache")
    expected = [image.clone() for image in whole(pairs[2], (22, 16))]
    pack, index = next((tmp_path / "cache").glob("*.pack")), next((tmp_path / "cache").glob("*.json"))
    content = bytearray(pack.read_bytes())
    if damage == "flipped":
        content[1000] ^= 4
    if damage in ("flipped", "cut"):
        pack.write_bytes(content[: len(content) // (2 if damage == "cut" else 1)])
    elif damage == "no index":
        index.unlink()
    else:
        index.write_text(index.read_text()[:20] if damage == "torn index" else "[" * 100_000)
    rebuilt, lines = opened(pairs, tmp_path / "cache")
    assert any("decoding 4 pairs" in line for line in lines)
    assert damage == "no index" or any("is damaged" in line for line in lines)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(rebuilt(pairs[2], (22, 16)), expected, strict=True))


def test_a_short_disk_is_an_error_or_told(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda place: Usage(10**9, 10**9, 1000))
    nothing, lines = opened(pairs, tmp_path / "cache")
    assert nothing is None and "decoded anew in every epoch" in lines[0]
    with pytest.raises(InputError, match="--cache disk: the cache needs"):
        opened(pairs, tmp_path / "cache", mode="disk")


def test_processes_that_want_the_same_pack_build_it_once(pairs, tmp_path):
    forked = multiprocessing.get_context("fork")
    results = forked.Queue()

    def work():
        results.put(opened(pairs, tmp_path / "cache")[1])

    processes = [forked.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    lines = [line for _ in processes for line in results.get(timeout=60)]
    for process in processes:
        process.join(60)
    assert (
        sum("decoding" in line for line in lines) == 1 and sum(line.startswith("Cache: 4 pairs") for line in lines) == 3
    )


def test_a_full_disk_leaves_nothing(pairs, tmp_path, monkeypatch):
    def full(handle, offset, length):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        opened(pairs, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_packs_that_this_run_does_not_use_are_told_and_stay(pairs, tmp_path):
    opened(pairs, tmp_path / "cache", 16)
    _, lines = opened(pairs, tmp_path / "cache", 17)
    assert "packs of other photos or settings beside it: 1, 0.00 GiB" in lines[1]
    assert opened(pairs, tmp_path / "cache", 16)[1][0].startswith("Cache: 4 pairs in")  # found, and nothing else to say


def test_a_damaged_pack_makes_room_for_its_successor(pairs, tmp_path, monkeypatch):
    opened(pairs, tmp_path / "cache")
    pack = next((tmp_path / "cache").glob("*.pack"))
    pack.write_bytes(pack.read_bytes()[:100])
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda place: Usage(0, 0, 0 if pack.exists() else 2**40))
    assert opened(pairs, tmp_path / "cache")[0] is not None


def test_training_ends_the_same_without_it_with_it_and_on_the_device(tmp_path, monkeypatch):
    rows = write_pairs(tmp_path, 6, first_seed=810)
    small = ["--model_size", "tiny", "--resolution", "16", "--batch_size", "2", "--lambda_vgg", "0", "--epochs", "2"]
    monkeypatch.setattr(feed, "free_on_gpu", lambda device: 2**30)  # the CPU stands in for a GPU with room for the pack
    node = ["--cache_dir", str(tmp_path / "node"), "--cache"]
    runs = {"off": ["--cache", "off"], "on": [*node, "disk"], "resident": [*node, "auto"]}
    for name, flags in runs.items():
        argv = ["--train_jsonl", str(rows), "--output_dir", str(tmp_path / name), "--num_workers", "1", *small, *flags]
        assert train_darkir_cv.main(argv) == 0
        assert ("copied there" in (tmp_path / name / "train.log").read_text()) == (name == "resident")
    off, *others = (read_checkpoint(tmp_path / name / "checkpoint_final.pt") for name in runs)
    for other in others:
        assert all(np.array_equal(off["params"][key], other["params"][key]) for key in off["params"])
        assert off["scores"] == other["scores"]
    assert list((tmp_path / "node" / "darkir-cache").glob("*.pack")) and not (tmp_path / "on" / "cache").exists()
    shutil.rmtree(tmp_path / "node")
    assert json.loads((tmp_path / "on" / "history.json").read_text())
