"""Fine-tuning through train_darkir_cv.py: what is frozen stays, what is mixed in is counted, what goes wrong is flagged."""

import json

import numpy as np
import pytest
import torch

import train_darkir_cv
from common.files import write_jsonl
from darkir import DarkIR, NetworkConfig
from darkir.architectures import count_stages, stage_of
from darkir.checkpoint_file import read_checkpoint
from data.loader import EpochPlan, Mixing
from data.transforms import order_generator, sample_generator
from engine.training.flags import red_flags
from engine.training.history import Progress
from engine.training.updates import loop as updates
from engine.training.updates.learner import FinetuneConfig, frozen_stages, rate_scale
from tests.helpers.exits import refusal
from tests.helpers.live_updates import BrokenUpdate
from tests.helpers.photos import write_pairs
from tests.helpers.run_records import differences, flatten, scalars
from tests.helpers.train_runs import SMALL, stop_at

TINY = NetworkConfig(width=8)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Own pairs with a validation set, and foreign ones to mix in."""
    folder = tmp_path_factory.mktemp("photos")
    rows = [json.loads(line) for line in write_pairs(folder, 6, first_seed=400).read_text().splitlines()]
    write_jsonl(folder / "train.jsonl", rows[:4])
    write_jsonl(folder / "val.jsonl", rows[4:])
    write_pairs(folder / "foreign", 5, first_seed=500)
    torch.manual_seed(0)
    torch.save({"params": DarkIR(TINY).state_dict()}, folder / "start.pt")
    return folder


def train(photos, output, *flags, epochs=2):
    argv = ["--train_jsonl", str(photos / "train.jsonl"), "--output_dir", str(output), "--epochs", str(epochs)]
    return train_darkir_cv.main([*argv, *SMALL, "--pretrained_path", str(photos / "start.pt"), *flags])


def changed_stages(photos, output, name="checkpoint_last.pt"):
    """Stages in which any raw weight differs from the start."""
    before = read_checkpoint(photos / "start.pt")["params"]
    after = read_checkpoint(output / name)["raw_params"]
    return {stage_of(key, TINY) for key in before if not torch.equal(before[key], after[key])}


def test_every_parameter_has_its_stage():
    stages = {name: stage_of(name, TINY) for name in DarkIR(TINY).state_dict()}
    assert set(stages.values()) == set(range(7)) and count_stages(TINY) == 7
    expected = {"intro.weight": 0, "downs.0.weight": 0, "encoders.2.modules_list.0.beta": 2, "side_out.bias": 3}
    expected |= {"middle_blks_dec.modules_list.0.gamma": 3, "ups.0.0.weight": 4, "decoders.2.modules_list.0.beta": 6}
    assert {name: stages[name] for name in expected} == expected and stages["ending.bias"] == 6


def test_frozen_stages_keep_their_weights_and_the_others_learn(photos, tmp_path):
    assert train(photos, tmp_path, "--freeze_stages", "2") == 0
    assert changed_stages(photos, tmp_path) == {2, 3, 4, 5, 6}


def test_stages_unfreeze_one_by_one_the_deepest_first(photos, tmp_path, capsys):
    flags = ["--freeze_stages", "2", "--unfreeze_every", "1", "--save_every", "1", "--lr", "1e-3"]
    assert train(photos, tmp_path, *flags, epochs=3) == 0
    unfrozen = [changed_stages(photos, tmp_path, f"checkpoint_epoch_{epoch}.pt") for epoch in (1, 2, 3)]
    assert unfrozen == [{2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}]
    out = capsys.readouterr().out
    assert (
        "Stage 2 learns from epoch 2 on; 1 stay frozen" in out
        and "Stage 1 learns from epoch 3 on; 0 stay frozen" in out
    )
    assert "Frozen: encoder 1, encoder 2; learning again: encoder 2 from epoch 2, encoder 1 from epoch 3 on" in out
    assert "Peak learning rate: 1.00e-03 in every stage that learns, in place of the guide's 0.0001" in out


@pytest.mark.long
def test_unfreezing_survives_a_stop(photos, tmp_path, monkeypatch):
    flags = ["--freeze_stages", "2", "--unfreeze_every", "1", "--mix_jsonl", str(photos / "foreign" / "pairs.jsonl")]
    assert train(photos, tmp_path / "whole", *flags, epochs=3) == 0
    for poll in (1, 4, 6):  # the first while the starting weights are validated
        with monkeypatch.context() as patch:
            stop_at(patch, poll)
            assert train(photos, tmp_path / f"stopped_{poll}", *flags, epochs=3) == 75
        epochs = len(read_checkpoint(tmp_path / f"stopped_{poll}" / "checkpoint_last.pt")["progress"]["history"])
        assert (epochs == 0) is (poll == 1)
        assert train(photos, tmp_path / f"stopped_{poll}", *flags, epochs=3) == 0
        ours, theirs = (run_files(tmp_path / name) for name in (f"stopped_{poll}", "whole"))
        assert differences(ours, theirs) == []
        assert [step for step, _ in scalars(tmp_path / f"stopped_{poll}" / "tensorboard")["1_validation/val_psnr"]] == [
            0,
            1,
            2,
            3,
        ]


def run_files(output):
    """The records of a single run's last state and of its history."""
    records = {}
    flatten(read_checkpoint(output / "checkpoint_last.pt"), "last", records)
    flatten(json.loads((output / "history.json").read_text()), "history", records)
    return records


def test_starting_weights_are_epoch_0_which_can_be_the_best(photos, tmp_path, capsys):
    """Weights that leave the photo as it is, and a rate that destroys them."""
    params = read_checkpoint(photos / "start.pt")["params"]
    params |= {name: torch.zeros_like(params[name]) for name in ("ending.weight", "ending.bias")}
    torch.save({"params": params}, tmp_path / "identity.pt")
    flags = ["--pretrained_path", str(tmp_path / "identity.pt"), "--lr", "0.1", "--ema_decay", "0"]
    run = tmp_path / "run"
    assert train(photos, run, *flags, "--early_stopping_patience", "2", epochs=5) == 0
    out = capsys.readouterr().out
    history = json.loads((run / "history.json").read_text())
    assert [record["epoch"] for record in history] == [0, 1, 2]
    assert history[0].keys() == history[1].keys() and history[0]["is_best"] and history[0]["train_terms"] == {}
    empty = ("train_loss", "lr", "grad_norm", "images_per_second")
    assert all(history[0][name] is None for name in empty) and history[0]["seconds"] == 0
    final, best = (read_checkpoint(run / f"checkpoint_{name}.pt") for name in ("final", "best"))
    assert best["epoch"] == 0 and all(torch.equal(best["params"][name], params[name]) for name in params)
    identity = sum(score["identity_psnr"] for score in final["scores"]) / len(final["scores"])
    assert history[0]["val_psnr"] == pytest.approx(identity) and history[1]["val_psnr"] < identity - 1
    assert (final["finished"]["best_epoch"], final["finished"]["epochs_run"]) == (0, 2)
    assert f"Epoch   0/5: starting weights, Val Loss={history[0]['val_loss']:.4f}, Val PSNR={identity:.2f}dB" in out
    assert f"   Best PSNR: {identity:.2f}dB at epoch 0\n   No improvement for 2 epochs" in out
    assert history[1]["flags"] == ["worse_than_start"] and "dB below the starting weights' (no interval: 2" in out
    assert "no epoch is better than the starting weights: checkpoint_best.pt holds them as they were" in out


def stopped_by_a_former_version(photos, output, monkeypatch, poll, flags):
    """A run of a version that neither validated its start nor recorded its random draws, stopped at the `poll`-th look."""
    with monkeypatch.context() as patch:
        stop_at(patch, poll)
        assert train(photos, output, *flags) == 75
    state = read_checkpoint(output / "checkpoint_last.pt")
    for name in ("start", "draws"):
        state["progress"].pop(name, None)
    state["progress"] |= {"history": [], "best": None}
    torch.save(state, output / "checkpoint_last.pt")


@pytest.mark.long
def test_a_run_that_a_former_version_began_goes_on_as_it_began(photos, tmp_path, monkeypatch, capsys):
    flags = ["--mix_jsonl", str(photos / "foreign" / "pairs.jsonl"), "--preprocess", "strong_aug"]
    # Before the first update, so that all of its draws are those of the former version.
    stopped_by_a_former_version(photos, tmp_path / "whole", monkeypatch, 1, flags)
    assert train(photos, tmp_path / "whole", *flags) == 0
    stopped_by_a_former_version(photos, tmp_path / "again", monkeypatch, 1, flags)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)  # in the first epoch
        assert train(photos, tmp_path / "again", *flags) == 75
    stopped = read_checkpoint(tmp_path / "again" / "checkpoint_last.pt")
    assert stopped["progress"]["draws"] == 1 and 0 < stopped["step"] < 2
    del stopped["progress"]["draws"]
    torch.save(stopped, tmp_path / "again" / "checkpoint_last.pt")
    assert train(photos, tmp_path / "again", *flags) == 0
    assert train(photos, tmp_path / "today", *flags) == 0
    whole, again, today = (
        read_checkpoint(tmp_path / name / "checkpoint_last.pt") for name in ("whole", "again", "today")
    )
    assert all(torch.equal(whole["raw_params"][name], again["raw_params"][name]) for name in whole["raw_params"])
    assert not torch.equal(whole["raw_params"]["ending.bias"], today["raw_params"]["ending.bias"])
    # Without the scores of its start, it goes on without an epoch 0.
    capsys.readouterr()
    stopped_by_a_former_version(photos, tmp_path / "no_start", monkeypatch, 4, [])
    assert train(photos, tmp_path / "no_start") == 0
    assert "flags compare with its first epoch" in capsys.readouterr().out
    assert [record["epoch"] for record in json.loads((tmp_path / "no_start" / "history.json").read_text())] == [1, 2]


def test_layer_decay_slows_the_stages_near_the_input(photos, tmp_path, capsys):
    assert rate_scale("ending.bias", TINY, 0.5) == 1.0 and rate_scale("intro.weight", TINY, 0.5) == 0.5**6
    assert train(photos, tmp_path / "same") == 0
    capsys.readouterr()
    assert train(photos, tmp_path / "decayed", "--layer_decay", "0.5") == 0
    rates = "encoder 1 1.56e-06, encoder 2 3.13e-06, encoder 3 6.25e-06, middle 1.25e-05, decoder 1 2.50e-05"
    assert (
        f"Frozen: nothing\nPeak learning rate: {rates}, decoder 2 5.00e-05, decoder 3 1.00e-04"
        in capsys.readouterr().out
    )
    start = read_checkpoint(photos / "start.pt")["params"]
    moved = {}
    for run in ("same", "decayed"):
        raw = read_checkpoint(tmp_path / run / "checkpoint_last.pt")["raw_params"]
        moved[run] = {name: (raw[name] - start[name]).abs().max().item() for name in ("intro.weight", "ending.bias")}
    assert moved["decayed"]["intro.weight"] < 0.1 * moved["same"]["intro.weight"]
    assert moved["decayed"]["ending.bias"] > 0.5 * moved["same"]["ending.bias"]


def test_freezing_is_a_pure_function_of_the_epoch():
    config = FinetuneConfig(freeze_stages=3, unfreeze_every=2)
    assert [frozen_stages(config, epoch) for epoch in range(8)] == [3, 3, 2, 2, 1, 1, 0, 0]
    assert frozen_stages(FinetuneConfig(freeze_stages=2), 99) == 2


def test_the_share_of_foreign_samples_falls_to_nothing():
    plan = EpochPlan(pairs=20, batch_size=4, accumulate_steps=1, mixing=Mixing(pairs=7, ratio=0.5, epochs=5))
    foreign = [[key.index - 20 for key in plan.keys(1, epoch) if key.index >= 20] for epoch in range(5)]
    assert [len(indices) for indices in foreign] == [10, 8, 5, 2, 0]
    assert all(0 <= index < 7 for indices in foreign for index in indices)
    assert plan.keys(1, 0) == plan.keys(1, 0) and len(set(plan.keys(1, 0))) == 20


def test_each_use_of_the_seed_draws_from_a_stream_of_its_own():
    former = np.random.Generator(np.random.PCG64(np.random.SeedSequence((7, 3))))
    order, crop = order_generator(7, 3, draws=1), sample_generator(7, 3, 0, 0, draws=1)
    assert order.random() == crop.random() == former.random()  # what a run of a former version goes on with
    assert order_generator(7, 3).random() != sample_generator(7, 3, 0, 0).random()
    keys = EpochPlan(pairs=5, batch_size=5, accumulate_steps=1, draws=1).keys(7, 3)
    assert [key.index for key in keys] == list(order_generator(7, 3, draws=1).permutation(5))
    assert keys != EpochPlan(pairs=5, batch_size=5, accumulate_steps=1).keys(7, 3)


def test_mixed_pairs_change_training_and_travel_as_earlier_data(photos, tmp_path, capsys):
    assert train(photos, tmp_path / "plain") == 0
    assert train(photos, tmp_path / "mixed", "--mix_jsonl", str(photos / "foreign" / "pairs.jsonl")) == 0
    assert "5 pairs are mixed in: 50% of the samples of the first epoch" in capsys.readouterr().out
    plain, mixed = (read_checkpoint(tmp_path / name / "checkpoint_best.pt") for name in ("plain", "mixed"))
    assert len(mixed["data"]["earlier"]) == 4 * 5 and plain["data"]["earlier"] == []
    assert not torch.equal(plain["params"]["ending.bias"], mixed["params"]["ending.bias"])


def test_a_test_photo_among_mixed_pairs_is_refused(photos, tmp_path, capsys):
    flags = ["--mix_jsonl", str(photos / "foreign" / "pairs.jsonl")]
    flags += ["--test_jsonl", str(photos / "foreign" / "pairs.jsonl")]
    assert train(photos, tmp_path, *flags) == 2
    assert "has the content of test photo" in capsys.readouterr().err


def test_partial_weights_need_leave_and_tell_what_is_missing(photos, tmp_path, capsys):
    params = read_checkpoint(photos / "start.pt")["params"]
    partial = {name: tensor for name, tensor in params.items() if not name.startswith("decoders.2")}
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in partial.items()}}, tmp_path / "partial.pt")
    flags = ["--pretrained_path", str(tmp_path / "partial.pt")]
    assert train(photos, tmp_path / "run", *flags, epochs=1) == 2
    assert "--allow_partial" in capsys.readouterr().err
    assert train(photos, tmp_path / "run", *flags, "--allow_partial", epochs=1) == 0
    assert "missing" in capsys.readouterr().out


def record(val_loss, l1=0.1, psnr=20.0):
    return {"val_loss": val_loss, "val_psnr": psnr, "train_terms": {"l1": l1}}


def test_flags_name_what_goes_wrong():
    falling = [record(0.2 - 0.01 * epoch, l1=0.2 - 0.01 * epoch, psnr=20 + epoch) for epoch in range(8)]
    assert red_flags(falling, 0, 1.0, None) == {}
    stale = [record(0.1), *[record(0.11)] * 5]
    assert red_flags(stale, 0, 1.0, None).keys() == {"validation_not_falling"}
    gap = [record(0.1 + 0.01 * epoch, l1=0.2 - 0.03 * epoch) for epoch in range(7)]
    assert "gap_growing" in red_flags(gap, 0, 2.0, None)  # weighted terms: divided by lambda_l1
    assert red_flags(falling, 0, 1.0, "0.50 dB below X")["worse_than_start"].startswith(
        "validation PSNR is 0.50 dB below X:"
    )
    assert "3 updates" in red_flags(falling, 3, 1.0, None)["non_finite_steps"]


@pytest.mark.parametrize(
    ("falls", "flagged"),
    [
        ([0.1] * 6, "0.10 dB below the starting weights' (0.10 to 0.10 dB, 95 % interval over 6"),
        ([0.1, 0.2, 0.1, 0.3, 0.2, 0.1], "0.17 dB below the starting weights' (0."),
        ([1.0, -0.9, 1.1, -1.0, 0.9, 1.2], None),  # 0.55 dB, but the photos do not agree
        ([0.2] * 4, None),  # too few for an interval: 0.25 dB
        ([0.3] * 4, "0.30 dB below the starting weights' (no interval: 4 independent units"),
        ([-1.0] * 6, None),
    ],
    ids=["all alike", "small but sure", "noise", "few and small", "few and large", "better"],
)
def test_worse_than_the_start_means_more_than_noise(falls, flagged):
    progress = Progress(start=[20.0] * len(falls), history=[record(0.1), record(0.1)])
    scores = [{"psnr": 20.0 - fall} for fall in falls]
    found = progress.fall_from_start(scores, [str(number) for number in range(len(falls))], pretrained=True)
    assert found is None if flagged is None else found.startswith(flagged)


def test_a_start_that_was_not_validated_is_compared_by_the_first_epoch():
    progress = Progress(history=[record(0.1, psnr=25.0), record(0.1, psnr=24.5)])
    assert progress.fall_from_start([], [], pretrained=True) == "0.50 dB below the first epoch's (more than 0.25 dB)"
    assert progress.fall_from_start([], [], pretrained=False) is None


def test_flags_stand_in_the_log_and_in_the_history(photos, tmp_path, monkeypatch, capsys):
    real, calls = updates.train_step, iter(range(1, 10**6))

    def step(*arguments):
        return BrokenUpdate("gradient") if next(calls) == 3 else real(*arguments)

    monkeypatch.setattr(updates, "train_step", step)
    assert train(photos, tmp_path, "--skip_bad_batches", "1", epochs=3) == 0
    flags = [record["flags"] for record in json.loads((tmp_path / "history.json").read_text())]
    assert flags == [[], [], ["non_finite_steps"], []]
    assert "🚩 non_finite_steps: 1 updates of this epoch were left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--freeze_stages", "4"], "--freeze_stages"),
        (["--unfreeze_every", "1"], "--unfreeze_every"),
        (["--layer_decay", "0"], "--layer_decay"),
        (["--mix_ratio", "1"], "--mix_ratio"),
    ],
    ids=[f"flags{number}" for number in range(4)],
)
def test_impossible_settings_are_usage_errors(photos, tmp_path, capsys, flags, named):
    argv = ["--train_jsonl", photos / "train.jsonl", "--output_dir", tmp_path, *SMALL, *flags]
    assert named in refusal(capsys, train_darkir_cv.main, *argv)
