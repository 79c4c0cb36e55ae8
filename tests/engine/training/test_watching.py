"""What someone who watches a run sees: the hour and what is left, long epochs, curves in TensorBoard, a terminal with bars."""

import io
import itertools
import re
import sys

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from common.log import RunLog, progress_bar
from common.workers import in_threads
from engine.training.updates import clock
from engine.training.updates.memory import memory_used
from tests.helpers.run_records import scalars
from tests.helpers.train_runs import stop_at, train


def test_the_log_says_the_hour_what_is_left_and_how_far_a_long_epoch_is(two_folds, tmp_path, monkeypatch, capsys):
    # Each look at the clock is 100 s after the one before: an epoch of two updates takes 300 s.
    ticks = itertools.count(0, 100)
    monkeypatch.setattr(clock, "seconds_now", lambda: float(next(ticks)))
    monkeypatch.setattr(clock, "hour", lambda: "02:31:07")
    assert train(two_folds, tmp_path, "--fold", "1", epochs=3) == 0
    lines = capsys.readouterr().out.splitlines()
    below = [after for line, after in itertools.pairwise(lines) if line.startswith("Epoch ")]
    assert below == [
        f"  02:31:07 after 5 min{left}"
        for left in ("; at most 10 min left of fold 1", "; at most 5 min left of fold 1", "")
    ]
    within = [line for line in lines if " update 1 of 2, 0.01 pairs/s, Train Loss=0." in line]
    assert [re.sub("=.* so far", "", line) for line in within] == [
        f"  02:31:07 epoch {epoch}: update 1 of 2, 0.01 pairs/s, Train Loss, 4 min left of its updates, {whole} of fold 1"
        for epoch, whole in ((1, "17 min"), (2, "9 min"), (3, "4 min"))
    ]
    assert (tmp_path / "train.log").read_text().splitlines()[-len(lines) :] == lines


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min"), (12_000, "3 h 20 min"), (190_000, "2 days 4 h")],
)
def test_durations(seconds, words):
    assert clock.duration(seconds) == words


def test_the_memory_of_a_gpu_is_told_once(two_folds, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("engine.training.train.memory_used", lambda device: f"GPU memory of {device.type}")
    assert train(two_folds, tmp_path, "--fold", "1", epochs=2) == 0
    assert capsys.readouterr().out.count("GPU memory of cpu") == 1


def test_the_memory_of_a_gpu_in_words(monkeypatch):
    for name, value in {"max_memory_allocated": 3 * 2**30, "max_memory_reserved": 4 * 2**30}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 80 * 2**30))
    words = "GPU memory at its peak: 3.0 GiB of tensors, 4.0 GiB reserved, of 80.0 GiB"
    assert memory_used(torch.device("cuda")) == words and memory_used(torch.device("cpu")) is None


def test_curves_of_a_run_that_began_under_other_names_are_whole(two_folds, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 6)
        assert train(two_folds, tmp_path, "--fold", "1") == 75
    events = tmp_path / "fold_1" / "tensorboard"
    for path in events.iterdir():
        path.unlink()
    with SummaryWriter(str(events)) as earlier:
        earlier.add_scalar("val_psnr", 1.0, 1)
    assert train(two_folds, tmp_path, "--fold", "1") == 0
    curves = scalars(events)
    assert curves["val_psnr"] == [[1, 1.0]]
    assert all([step for step, _ in points] == [1, 2] for tag, points in curves.items() if tag != "val_psnr")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_lines_and_the_stop_message_stand_beside_no_bar(two_folds, tmp_path, monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    stop_at(monkeypatch, 1)
    assert train(two_folds, tmp_path, "--fold", "1") == 75
    assert "Epoch 1:" in screen.getvalue() and "0it [" not in screen.getvalue()
    assert "\nstopped: SIGTERM received; state saved" in screen.getvalue()

    screen.truncate(0)
    with progress_bar(3, "Photos") as bar:
        bar.update()
        RunLog()("a line")
    assert "Photos:  33%" in screen.getvalue() and re.search(r"[\r\n]a line\n", screen.getvalue())


def test_nothing_to_do_shows_no_bar(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    assert list(in_threads(str, [], 1, "Reading")) == []
    with progress_bar(4, "Photos", initial=4):
        pass
    assert screen.getvalue() == ""
