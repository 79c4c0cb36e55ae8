"""Photos and packs that change while a run reads them: noticed, named, and no finished run is made of them."""

import os
import shutil

import pytest
from PIL import Image, ImageOps

from engine.inference import identity
from engine.training import train as training
from engine.training.updates import loop as updates
from tests.helpers.hazard_runs import train
from tests.helpers.photos import write_pairs


@pytest.fixture
def photos(tmp_path):
    """Six pairs of this test's own, which it may change."""
    write_pairs(tmp_path / "photos", 6, first_seed=600)
    return tmp_path / "photos"


def run(photos, *flags) -> int:
    return train(photos, photos.parent / "run", *flags, rows="pairs.jsonl")


def after_update(monkeypatch, act) -> None:
    """Call `act` after the first update."""
    real = updates.train_step

    def step(*arguments):
        result = real(*arguments)
        act()
        return result

    monkeypatch.setattr(updates, "train_step", step)


def after_last_read(monkeypatch, act) -> None:
    """Call `act` when a run has read all that it will read, and only its last file is to be written."""
    real = training.score

    def score(restore, *arguments):
        result = real(restore, *arguments)
        if restore is identity:
            act()
        return result

    monkeypatch.setattr(training, "score", score)


def negate(path) -> None:
    ImageOps.invert(Image.open(path)).save(path)


@pytest.mark.parametrize("change", [negate, lambda path: Image.open(path).resize((64, 64)).save(path)])
def test_photos_that_are_replaced_in_mid_run_stop_it_by_name_and_it_continues_with_the_old_ones(
    photos, monkeypatch, capsys, change
):
    shutil.copytree(photos, photos.parent / "kept")

    def replace_all():
        for path in photos.rglob("*.png"):
            change(path)

    with monkeypatch.context() as patch:
        after_update(patch, replace_all)
        assert run(photos, "--cache", "off", "--checkpoint_every_steps", "1") == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and ".png changed" in message and "pairs.jsonl:" in message
    shutil.copytree(photos.parent / "kept", photos, dirs_exist_ok=True)
    assert run(photos, "--cache", "off") == 0
    assert "Continuing single run at update 1" in capsys.readouterr().out


def test_photos_whose_pixels_stay_may_be_copied_anew_in_mid_run(photos, monkeypatch):
    after_update(monkeypatch, lambda: [os.utime(path, (1e9, 1e9)) for path in photos.rglob("*.png")])
    assert run(photos, "--cache", "off") == 0


@pytest.mark.parametrize("cache", ["off", "disk"])
def test_a_run_whose_pixels_changed_is_never_finished(photos, monkeypatch, capsys, cache):
    victim, folder = photos / "images" / "602_tar.png", photos.parent / "run"

    def damage():
        if cache == "off":
            negate(victim)
            return
        pack = next(folder.rglob("*.pack"))
        content = bytearray(pack.read_bytes())
        content[len(content) // 2] ^= 1
        pack.write_bytes(content)

    shutil.copy(victim, photos.parent / "kept.png")
    with monkeypatch.context() as patch:
        after_last_read(patch, damage)
        assert run(photos, "--cache", cache) == 2
    message = capsys.readouterr().err
    assert ("602_tar.png" if cache == "off" else ".pack") in message and "--overwrite" in message
    assert not (folder / "checkpoint_final.pt").exists()
    shutil.copy2(photos.parent / "kept.png", victim)
    assert run(photos, "--cache", cache) == 2
    message = capsys.readouterr().err
    assert "checkpoint_last.pt is not a state to continue from" in message and "--overwrite" in message
    assert run(photos, "--cache", cache, "--overwrite") == 0


def test_a_pack_that_another_run_deletes_or_builds_anew_is_no_change(photos, monkeypatch):
    after_last_read(monkeypatch, lambda: [path.unlink() for path in (photos.parent / "run").rglob("*.pack")])
    assert run(photos, "--cache", "disk") == 0


def test_photos_that_are_out_of_reach_at_the_end_cost_no_more_than_a_rerun(photos, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        after_last_read(patch, lambda: (photos / "images").rename(photos / "away"))
        assert run(photos, "--cache", "off") == 2
    message = capsys.readouterr().err
    assert "cannot be read any more" in message and "pairs.jsonl:" in message and "--overwrite" not in message
    (photos / "away").rename(photos / "images")
    assert run(photos, "--cache", "off") == 0
