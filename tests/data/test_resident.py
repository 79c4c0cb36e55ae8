"""Pairs on the device: the same batches, bit for bit, as the loader makes of the same keys. The device here is the CPU."""

import numpy as np
import pytest
import torch
from PIL import Image

from common import signals
from common.errors import Stopped
from data import cache
from data.cache import ResidentPairs, open_cache, open_resident
from data.dataset import EvaluationPairs, SampleKey, TrainingPairs
from data.fingerprint import fingerprint_pairs
from data.loader import BatchKeys, EpochPlan, Mixing, equal_size_batches, evaluation_loader, training_batches
from data.manifest import read_pairs
from data.transforms import Draw, cut, lattice
from engine.training.feed import free_on_gpu
from tests.helpers.photos import write_pairs

CPU = torch.device("cpu")
LENGTH, SEED = 16, 5


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Wide, tall and square pairs, one smaller than the training crop."""
    rows = []
    for number, (width, height) in enumerate([(30, 22), (21, 33), (24, 24), (14, 12)]):
        folder = tmp_path_factory.mktemp(f"photos{number}")
        rows += read_pairs(write_pairs(folder, 2, first_seed=900 + 2 * number, width=width, height=height))
    return fingerprint_pairs(rows)


@pytest.fixture(scope="module")
def packs(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    return {fit: open_cache(pairs, LENGTH, fit, "disk", folder, print) for fit in ("crop", "squash")}


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs) > 0
    for our, their in zip(ours, theirs, strict=True):
        for name in ("src", "tar", "index"):
            assert our[name].dtype == their[name].dtype and our[name].is_contiguous()
            assert torch.equal(our[name], their[name]), name


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("preprocess", ["none", "light_aug", "strong_aug"])
def test_training_batches_are_the_loaders(pairs, packs, preprocess, fit):
    dataset = TrainingPairs(pairs, LENGTH, fit, preprocess, SEED, packs[fit])
    keys = BatchKeys(EpochPlan(len(pairs), 3, 1), SEED, 4, 0, 0, 1)
    same(ResidentPairs(packs[fit], CPU).training_batches(dataset, keys), training_batches(dataset, keys, 0, False))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("first_update", [0, 3])
def test_mixing_restarts_accumulation_and_ranks(pairs, packs, first_update, rank):
    dataset = TrainingPairs(pairs, LENGTH, "crop", "strong_aug", SEED, packs["crop"])
    plan = EpochPlan(5, 2, 2, Mixing(len(pairs) - 5, 0.5, 3))  # the last three pairs are foreign
    keys = BatchKeys(plan, SEED, 3, first_update, rank, 2)
    ours = list(ResidentPairs(packs["crop"], CPU).training_batches(dataset, keys))
    same(ours, training_batches(dataset, keys, 2, False))
    assert max(int(batch["index"].max()) for batch in ours) >= 5 or first_update
    if first_update:
        whole = list(ResidentPairs(packs["crop"], CPU).training_batches(dataset, BatchKeys(plan, SEED, 3, 0, rank, 2)))
        same(ours, whole[first_update * plan.accumulate_steps :])


@pytest.mark.parametrize("fit", ["crop", "squash"])
def test_validation_frames_are_the_loaders_again_and_again(pairs, packs, fit):
    dataset = EvaluationPairs(pairs, LENGTH, fit, packs[fit])
    batches = equal_size_batches(dataset, 2)
    frames = ResidentPairs(packs[fit], CPU).frames(dataset, batches)
    for _ in range(2):
        same(frames, evaluation_loader(dataset, batches, 0, False))


def test_the_cache_changes_no_sample(pairs, packs):
    key = SampleKey(1, 0, 2)
    samples = [
        TrainingPairs(pairs, LENGTH, "crop", "strong_aug", SEED, *source)[key] for source in ([], [packs["crop"]])
    ]
    assert samples[0]["index"] == 2 and samples[0]["src"].shape == (3, LENGTH, LENGTH)
    assert all(torch.equal(samples[0][role], samples[1][role]) for role in ("src", "tar"))


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_flips_and_turns_are_those_of_numpy(down, across, turns):
    image = np.arange(7 * 9).reshape(7, 9)
    window = image[2:6, 3:7]
    for axis, drawn in enumerate((down, across)):
        window = np.flip(window, axis) if drawn else window
    expected = np.rot90(window, turns)
    draw = Draw(2, 3, down, across, turns)
    assert np.array_equal(cut(torch.from_numpy(image)[None], draw, 4)[0], expected)
    first, step_down, step_across = lattice(draw, 9, 4)
    places = first + step_down * np.arange(4)[:, None] + step_across * np.arange(4)
    assert np.array_equal(image.reshape(-1)[places], expected)


def test_an_exposure_changes_the_source_alone(tmp_path):
    """A gray ramp through `strong_aug`: every code of a channel goes where that channel's table says, the target stays."""
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    for role in ("src", "tar"):
        Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / f"a_{role}.png")
    (tmp_path / "pairs.jsonl").write_text('{"src": "a_src.png", "tar": "a_tar.png"}\n')
    ramps = fingerprint_pairs(read_pairs(tmp_path / "pairs.jsonl"))
    dataset = TrainingPairs(ramps, 256, "crop", "strong_aug", SEED)
    keys = [SampleKey(0, draw, 0) for draw in range(4)]
    batch = ResidentPairs(open_cache(ramps, 256, "crop", "disk", tmp_path, print), CPU).training_batch(dataset, keys)
    for place, key in enumerate(keys):
        tables = torch.from_numpy(dataset.draw(key).tables)
        codes = batch["tar"][place].long()
        assert sorted(set(codes.flatten().tolist())) == list(range(256))
        assert all(torch.equal(batch["src"][place, c], tables[c][codes[c]]) for c in range(3))
    assert not torch.equal(batch["src"], batch["tar"])


def test_it_moves_in_where_a_quarter_of_the_free_memory_holds_it(packs):
    assert free_on_gpu(CPU) is None
    lines, needed = [], packs["crop"].pixels.numel()
    for free, fits in ((4 * needed, True), (4 * needed - 1, False)):
        opened = open_resident(packs["crop"], CPU, free, lines.append)
        assert (opened is not None) == fits
    assert "copied there" in lines[0] and "25%" in lines[1]


def test_a_large_pack_arrives_whole_and_a_signal_stops_it(packs, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 1000)
    assert torch.equal(ResidentPairs(packs["crop"], CPU).pixels, packs["crop"].pixels)
    monkeypatch.setattr(signals, "_received", ["SIGTERM"])
    with pytest.raises(Stopped):
        ResidentPairs(packs["crop"], CPU)


def test_a_batch_that_does_not_fit_beside_it_has_a_way_out(packs):
    assert "--cache disk takes 0.00 GiB" in ResidentPairs(packs["crop"], CPU).advice
