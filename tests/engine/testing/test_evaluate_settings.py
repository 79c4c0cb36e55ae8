"""evaluate_darkir_test.py: resolution, model size and pictures; what a failed, stopped or repeated run leaves behind."""

import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate_darkir_test
from common import signals
from common.files import write_jsonl
from darkir.architectures import NetworkConfig
from darkir.network import DarkIR
from engine import checkpoint, inference
from engine.testing.visuals import VisualsFolder, to_bytes
from tests.helpers.evaluate_runs import PHOTOS, noisy_network, refused, results_of, run, save_fold, save_weights
from tests.helpers.exits import refusal
from tests.helpers.leftovers import foreign_files, leave
from tests.helpers.lock_holder import locked_by_another


@pytest.fixture(autouse=True)
def no_signal_left():
    yield
    signals.clear()


def test_recorded_resolution_is_used_and_a_flag_overrides_it(own_folds, capsys):
    for fold in (1, 2, 3):
        save_fold(own_folds / "cv", fold, noisy_network(fold), resolution=24)
    assert run(own_folds, own_folds / "small", "--save_visuals") == 0
    assert "instead of" not in capsys.readouterr().out
    assert results_of(own_folds / "small")["settings"]["resolution"] == 24
    assert Image.open(own_folds / "small" / "visuals" / "light_src_comparison.jpg").size == (3 * 29, 24)
    assert run(own_folds, own_folds / "large", "--resolution", 32, "--fit", "squash", "--save_visuals") == 0
    assert "--resolution 32 instead of 24" in capsys.readouterr().out
    assert Image.open(own_folds / "large" / "visuals" / "light_src_comparison.jpg").size == (3 * 32, 32)


def test_folds_trained_at_different_resolutions_need_a_decision(own_folds, capsys):
    save_fold(own_folds / "cv", 2, noisy_network(2), resolution=48)
    message = refused(capsys, own_folds, own_folds / "out")
    assert "fold_1: 64" in message and "fold_2: 48" in message and "--resolution" in message
    assert run(own_folds, own_folds / "out", "--resolution", 48) == 0


def test_model_size_that_fits_is_accepted(three_folds, tmp_path):
    network = DarkIR(NetworkConfig(width=32))
    content = checkpoint.weights_content(network, NetworkConfig(width=32))
    checkpoint.save(tmp_path / "m.pt", content)
    write_jsonl(
        tmp_path / "test.jsonl", [{"src": str(three_folds / "a/1_src.png"), "tar": str(three_folds / "a/1_tar.png")}]
    )
    models = ["--checkpoint", tmp_path / "m.pt", "--model_size", "m"]
    assert run(tmp_path, tmp_path / "out", models=models) == 0
    results = results_of(tmp_path / "out")
    assert results["models"][0]["network"] == "DarkIR-m (width 32)"
    assert results["models"][0]["parameters"] == 3_321_638
    # A fresh network has beta and gamma 0 but a random last convolution: it is not the identity.
    assert results["ensemble"] != results["identity"]


def test_values_above_one_become_white_and_not_black(three_folds, tmp_path):
    network = noisy_network(1)
    with torch.no_grad():
        network.ending.weight.zero_()
        network.ending.bias.fill_(1.004)
    save_weights(tmp_path / "white.pt", network)
    assert run(three_folds, tmp_path / "out", "--save_visuals", models=["--checkpoint", tmp_path / "white.pt"]) == 0
    strip = np.asarray(Image.open(tmp_path / "out" / "visuals" / "light_src_comparison.jpg"))
    assert strip[:, 52:92].min() > 245


def test_bytes_of_pictures_are_clamped_and_rounded():
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.004]).expand(3, 1, 6)
    assert to_bytes(values)[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


def test_a_run_without_pictures_removes_those_of_the_former_run(own_folds):
    output = own_folds / "out"
    assert run(own_folds, output, "--save_visuals") == 0
    (output / "visuals" / "my notes.txt").write_text("keep")
    assert run(own_folds, output) == 0
    assert [path.name for path in (output / "visuals").iterdir()] == ["my notes.txt"]
    assert "visuals/" not in (output / "report.html").read_text(encoding="utf-8")


def test_full_pictures_have_the_size_of_the_photo_and_go_with_the_next_run(own_folds):
    output = own_folds / "out"
    assert run(own_folds, output, "--resolution", 16, "--save_visuals", "full") == 0
    sides = [output / "visuals" / f"light_src_native_{side}.jpg" for side in ("source", "output", "target")]
    assert {Image.open(side).size for side in sides} == {PHOTOS["a/light_src.png"]}
    assert "visuals/light_src_native_output.jpg" in (output / "report.html").read_text(encoding="utf-8")
    assert run(own_folds, output, "--save_visuals") == 0
    assert not any(side.exists() for side in sides)


def test_output_that_is_not_finite_is_a_failure_with_nothing_written(three_folds, tmp_path, capsys):
    network = noisy_network(1)
    with torch.no_grad():
        network.intro.weight.fill_(3e38)
    save_weights(tmp_path / "wild.pt", network)
    output = tmp_path / "out"
    assert run(three_folds, output, models=["--checkpoint", tmp_path / "wild.pt"]) == 1
    message = capsys.readouterr().err
    assert "wild.pt" in message and "not finite" in message and "1_src.png" in message
    assert [path.name for path in output.iterdir()] == [".lock"]


def refused_by_torch(src):
    raise torch.OutOfMemoryError("no")


def refused_by_the_system(src):
    return torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("greedy", [refused_by_torch, refused_by_the_system])
def test_out_of_memory_says_what_to_lower(three_folds, tmp_path, capsys, monkeypatch, greedy):
    monkeypatch.setattr(inference, "restorer", lambda network, precision, warn: greedy)
    assert run(three_folds, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert message.startswith("failed: fold_1: no memory on cpu for a batch of ") and "smaller batches" in message


def test_a_signal_ends_the_run_and_leaves_the_former_results(own_folds, monkeypatch, capsys):
    output = own_folds / "out"
    assert run(own_folds, output, "--save_visuals") == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    save_fold(own_folds / "cv", 1, noisy_network(9))
    handlers = {number: signal.getsignal(number) for number in signals.SIGNALS}
    add = VisualsFolder.add

    def add_then_stop(self, *arguments):
        add(self, *arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(VisualsFolder, "add", add_then_stop)
    signals.install()
    try:
        assert run(own_folds, output, "--save_visuals", "--batch_size", 1) == 75
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "SIGTERM" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in output.iterdir()) == [
        ".lock", "per_image.csv", "report.html", "test_results.json", "visuals",
    ]  # fmt: skip


def test_leftovers_of_a_killed_run_are_cleared(own_folds):
    output = own_folds / "out"
    (output / ".darkir-tmp.visuals").mkdir(parents=True)
    (output / ".darkir-tmp.visuals" / "old_comparison.jpg").write_bytes(b"half")
    left, theirs = leave(output / "test_results.json"), foreign_files(output)
    assert run(own_folds, output, "--save_visuals") == 0
    assert not (output / ".darkir-tmp.visuals").exists() and not left[0].exists()
    assert all(path.read_text() == "theirs" for path in theirs)
    assert len(list((output / "visuals").iterdir())) == len(PHOTOS)


def test_a_second_run_into_the_same_folder_is_refused(three_folds, tmp_path, capsys):
    with locked_by_another(tmp_path / "out"):
        assert run(three_folds, tmp_path / "out") == 2
    assert f"error: --output_dir {tmp_path / 'out'} is in use by process" in capsys.readouterr().err
    assert run(three_folds, tmp_path / "out") == 0


def test_test_pairs_of_the_usual_name_are_taken_when_none_are_named(three_folds, tmp_path, monkeypatch, capsys):
    flags = ["--cv_dir", str(three_folds / "cv"), "--num_workers", "0", "--base_dir", str(three_folds)]
    monkeypatch.chdir(tmp_path)
    message = refusal(capsys, evaluate_darkir_test.main, *flags)
    assert "--test_jsonl; looked for data_splits/test.jsonl, which is not here" in message
    (tmp_path / "data_splits").mkdir()
    shutil.copy(three_folds / "test.jsonl", tmp_path / "data_splits")
    assert evaluate_darkir_test.main(flags) == 0
    assert "Test pairs: data_splits/test.jsonl, which is here" in capsys.readouterr().out
    assert results_of(tmp_path / "test_results")["n"] == 5
