"""Malicious, flipped, torn and unfitting checkpoints: no code of theirs runs, nothing wrong is loaded, and the run says why."""

import json
import os
import random

import pytest
import torch

from common import signals
from darkir.checkpoint_file import read_checkpoint
from darkir.errors import ModelError
from engine import checkpoint
from tests.helpers import hostile
from tests.helpers.hazard_runs import evaluate, train
from tests.helpers.malicious import Malicious, malicious, run_its_code, saved


@pytest.fixture(scope="module")
def finished(own_photos, tmp_path_factory):
    """A finished run on `own_photos`."""
    output = tmp_path_factory.mktemp("run")
    assert train(own_photos, output) == 0
    return output


@pytest.fixture
def stopped(own_photos, tmp_path, monkeypatch):
    """A run that was stopped after its first update; its state is the only one."""
    with monkeypatch.context() as patch:
        patch.setattr(signals, "requested", lambda: "SIGTERM")
        assert train(own_photos, tmp_path / "run") == 75
    return tmp_path / "run"


@pytest.fixture(params=["by default", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"])
def environment(request, monkeypatch):
    """Also the one in which torch.load would run code when it is not told otherwise."""
    if "=" in request.param:
        monkeypatch.setenv(*request.param.split("="))


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("kind", ["zip", "legacy", "raw"])
def test_a_malicious_checkpoint_runs_no_code_wherever_it_is_planted(own_photos, finished, tmp_path, capsys, kind):
    proof, evil = tmp_path / "proof", tmp_path / "evil.pt"
    content = dict(read_checkpoint(finished / "checkpoint_best.pt")) if kind != "raw" else {"params": {}}
    evil.write_bytes(saved({**content, "epoch": Malicious(proof, random.Random(1))}, kind))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "checkpoint_last.pt").write_bytes(evil.read_bytes())
    runs = {
        "evaluated": lambda: evaluate(evil, own_photos / "test.jsonl", tmp_path / "results"),
        "started from": lambda: train(own_photos, tmp_path / "new", "--pretrained_path", evil),
        "resumed from": lambda: train(own_photos, tmp_path / "new", "--resume", evil),
        "found as a state": lambda: train(own_photos, tmp_path / "out"),
        "loss weights": lambda: train(own_photos, tmp_path / "new", "--lambda_vgg", "1", "--vgg_weights", evil),
    }
    for place, run in runs.items():
        assert run() == 2, place
        message = capsys.readouterr().err
        assert "Traceback" not in message and (".pt" in message), place
        assert not proof.exists(), place
    run_its_code(evil, kind)
    assert proof.exists(), "the planted code works where it is allowed to"


def test_code_hidden_anywhere_in_a_checkpoint_is_refused(finished, tmp_path):
    content = read_checkpoint(finished / "checkpoint_last.pt")
    for seed in range(40):
        (tmp_path / "evil.pt").write_bytes(malicious(random.Random(seed), content, tmp_path / "proof"))
        with pytest.raises(ModelError, match=r"evil\.pt: "):
            read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("kind", hostile.ACCEPTED)
def test_odd_records_of_sound_weights_reach_results_and_report_as_plain_text(finished, own_photos, tmp_path, kind):
    content = read_checkpoint(finished / "checkpoint_best.pt")
    (tmp_path / "odd.pt").write_bytes(saved(hostile.ACCEPTED[kind](content)))
    assert evaluate(tmp_path / "odd.pt", own_photos / "test.jsonl", tmp_path / "results") == 0
    model = json.loads((tmp_path / "results" / "test_results.json").read_text(encoding="utf-8"))["models"][0]
    odd = kind == "metrics that are not finite"
    assert [*model["validation"]] == (["l1"] if odd else ["psnr", "ssim", "l1"]) and (model["epoch"] is None) == odd
    assert model["provenance_sources"] == ([] if odd else ["\udcff"])


def test_no_flipped_bit_of_a_checkpoint_is_ever_loaded(finished, tmp_path):
    sound = (finished / "checkpoint_best.pt").read_bytes()
    params, dice, refused = read_checkpoint(finished / "checkpoint_best.pt")["params"], random.Random(3), 0
    for _ in range(300):
        content = bytearray(sound)
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        (tmp_path / "flipped.pt").write_bytes(content)
        try:
            found = read_checkpoint(tmp_path / "flipped.pt")["params"]
        except ModelError:
            refused += 1
            continue
        # The flip lies in the zip's own padding or dates.
        assert found.keys() == params.keys() and all(torch.equal(found[name], params[name]) for name in params)
    assert refused >= 285


def test_a_broken_final_file_is_made_again_from_the_state(own_photos, finished, tmp_path, capsys):
    for name in ("checkpoint_final.pt", "checkpoint_last.pt", "checkpoint_best.pt"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    (tmp_path / "checkpoint_final.pt").write_bytes((finished / "checkpoint_final.pt").read_bytes()[:9000])
    assert train(own_photos, tmp_path) == 0
    assert "checkpoint_final.pt: torn or damaged" in capsys.readouterr().out
    one, other = (read_checkpoint(folder / "checkpoint_final.pt") for folder in (tmp_path, finished))
    assert one["scores"] == other["scores"] and one["finished"] == other["finished"]
    (tmp_path / "checkpoint_final.pt").write_bytes(b"torn")
    (tmp_path / "checkpoint_last.pt").unlink()
    assert train(own_photos, tmp_path) == 2
    assert "no state to make it from" in capsys.readouterr().err


def spoil(content, name):
    """A state in which one part is not what it should be."""
    progress, optimizer = content["progress"], content["optimizer"]
    first = next(iter(optimizer["state"]))
    return {
        "not finite": {
            **content,
            "raw_params": {**content["raw_params"], "intro.bias": torch.full((8,), float("nan"))},
        },
        "tensor lost": {**content, "raw_params": dict(list(content["raw_params"].items())[1:])},
        "moments of another network": {
            **content,
            "optimizer": {**optimizer, "state": {**optimizer["state"], first: {"exp_avg": torch.zeros(3, 5)}}},
        },
        "no moments": {**content, "optimizer": {}},
        "random state": {**content, "rng": torch.zeros(3)},
        "position": {**content, "progress": {**progress, "step": 5}},
        "history": {**content, "progress": {**progress, "history": ["an epoch"]}},
        "a record without its numbers": {**content, "progress": {**progress, "history": [{"epoch": 1}]}},
        "a position before the start": {**content, "step": -5, "progress": {**progress, "step": -5}},
        "a position behind the end": {**content, "step": 10**9, "progress": {**progress, "step": 10**9}},
        "sums of text": {**content, "progress": {**progress, "totals": {**progress["totals"], "loss": "x"}}},
        "terms of text": {**content, "progress": {**progress, "totals": {**progress["totals"], "terms": {"l1": "x"}}}},
        "sums that are not finite": {
            **content,
            "progress": {**progress, "totals": {**progress["totals"], "loss": float("nan")}},
        },
        "a best epoch that never was": {**content, "progress": {**progress, "best": {"epoch": 1, "scores": [{}, {}]}}},
        "another optimizer": {
            **content,
            "optimizer": {**optimizer, "param_groups": [{**g, "betas": "ab"} for g in optimizer["param_groups"]]},
        },
        "a loss scale of text": {**content, "scaler": {"scale": "x"}},
        "changes of another kind": {**content, "progress": {**progress, "changes": [{"flag": "--extend"}]}},
        "progress of another version": {**content, "progress": {**progress, "new": 1}},
        "another version": {**content, "schema_version": 2},
    }[name]


SPOILT = [
    "not finite",
    "moments of another network",
    "position",
    "sums of text",
    "progress of another version",
    "another version",
]
ALSO_SPOILT = [
    "tensor lost",
    "no moments",
    "random state",
    "history",
    "a record without its numbers",
    "a position before the start",
    "a position behind the end",
    "terms of text",
    "sums that are not finite",
    "a best epoch that never was",
    "another optimizer",
    "a loss scale of text",
    "changes of another kind",
]


@pytest.mark.parametrize("name", [*SPOILT, *(pytest.param(name, marks=pytest.mark.long) for name in ALSO_SPOILT)])
def test_a_state_that_does_not_fit_is_refused_whole(own_photos, stopped, capsys, name):
    path = stopped / "checkpoint_last.pt"
    path.write_bytes(saved(spoil(read_checkpoint(path), name)))
    before = path.read_bytes()
    assert train(own_photos, stopped) == 2
    message = capsys.readouterr().err
    assert "checkpoint_last.pt" in message and "--overwrite" in message and path.read_bytes() == before


@pytest.mark.long
def test_the_newest_state_is_chosen_by_name_and_number_not_by_the_clock(stopped, own_photos, tmp_path, capsys):
    last = (stopped / "checkpoint_last.pt").read_bytes()
    names = ["checkpoint_last.pt", "checkpoint_last.prev.pt", "checkpoint_epoch_10.pt", "checkpoint_epoch_9.pt"]
    for age, name in enumerate(names):
        (stopped / name).write_bytes(last)
        os.utime(stopped / name, (2e9 + age, 2e9 + age))
    assert [path.name for path in checkpoint.state_files(stopped)] == names
    (stopped / "checkpoint_last.pt").write_bytes(b"torn")
    (stopped / "checkpoint_last.prev.pt").write_bytes(b"torn, too")
    assert train(own_photos, stopped, "--dry_run") == 0
    out = capsys.readouterr().out
    assert "continuing from checkpoint_epoch_10.pt" in out and out.count("not a checkpoint") == 2
