"""What export_model.py refuses, and that nothing is half-written or replaced unasked."""

import json
import os
import shutil
import signal

import pytest
import torch

import export_model
from engine.exporting import artefact
from engine.exporting.config import BEGUN
from tests.helpers.exits import refusal
from tests.helpers.export_runs import argv_of, change, contents_of, export
from tests.helpers.interruptions import WriteHook


def test_nothing_is_overwritten_unless_asked(finished_run, two_folds, tmp_path, capsys):
    (tmp_path / "m.md").write_text("mine", encoding="utf-8")
    message = refusal(capsys, export_model.main, *argv_of(finished_run, two_folds, tmp_path / "m.safetensors"))
    assert "m.md exists" in message and (tmp_path / "m.md").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "m.safetensors").exists()
    assert export(finished_run, two_folds, tmp_path / "m.safetensors", "--overwrite") == 0
    assert (tmp_path / "m.md").read_text(encoding="utf-8") != "mine"


@pytest.mark.parametrize("folder", ["m.safetensors", "m.md"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_written(
    finished_run, two_folds, tmp_path, capsys, folder
):
    (tmp_path / folder).mkdir()
    argv = argv_of(finished_run, two_folds, tmp_path / "m.safetensors", "--overwrite")
    assert "there is a folder" in refusal(capsys, export_model.main, *argv)
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_a_wrong_base_dir_is_refused_without_test_jsonl_too(finished_run, tmp_path, capsys):
    argv = argv_of(finished_run, None, tmp_path / "out/m.safetensors", "--base_dir", tmp_path / "gone")
    assert "--base_dir" in refusal(capsys, export_model.main, *argv) and not (tmp_path / "out").exists()


def test_the_folder_of_a_single_run_is_told_from_a_cross_validation(finished_run, tmp_path, capsys):
    """The advice names no flag that this script lacks."""
    message = refusal(capsys, export_model.main, *argv_of(finished_run / "fold_1", None, tmp_path / "m.safetensors"))
    assert "checkpoint_best.pt" in message and "enhance_photos.py" in message


def leak(run, splits):
    for fold, content in contents_of(run).items():
        rows = (splits / "test.jsonl").read_text(encoding="utf-8").splitlines()
        content["data"]["own"].append(json.loads(rows[0])["src_sha256"])
        torch.save(content, run / fold / "checkpoint_best.pt")


MISTAKES = {
    "no such fold": (lambda *_: None, ["--choose", "fold_3"], ["--choose fold_3", "fold_1, fold_2, average"]),
    "nonsense to choose": (lambda *_: None, ["--choose", "worst"], ["--choose worst"]),
    "another ending": (lambda *_: None, ["--output", "m.pt"], ["--output m.pt", ".safetensors"]),
    "another ending of the ONNX": (lambda *_: None, ["--onnx", "m.pt"], ["--onnx m.pt", ".onnx"]),
    "no run": (lambda run, _: shutil.rmtree(run), [], ["--cv_dir", "missing"]),
    "unfinished": (
        lambda run, _: (run / "fold_2/checkpoint_final.pt").unlink(),
        [],
        ["--cv_dir", "fold_2 is unfinished"],
    ),
    "damaged": (
        lambda run, _: (run / "fold_2/checkpoint_best.pt").write_bytes(b"half"),
        [],
        ["error: --cv_dir", "best.pt"],
    ),
    "no test set": (lambda *_: None, ["--test_jsonl", "gone.jsonl"], ["error: --test_jsonl gone.jsonl does not exist"]),
    "a leak": (leak, [], ["fold_1", "saw 1 of the 2 test photos"]),
    "scores of another epoch": (
        lambda run, _: change(run / "fold_1/checkpoint_best.pt", epoch=99),
        [],
        ["error: --cv_dir", "checkpoint_best.pt", "epoch 99"],
    ),
    "no scores": (
        lambda run, _: change(run / "fold_1/checkpoint_final.pt", scores=[]),
        [],
        ["error: --cv_dir", "fold_1", "no validation"],
    ),
    "no training resolution": (
        lambda run, _: change(run / "fold_1/checkpoint_best.pt", config={"data": {}}),
        [],
        ["training resolution", "fold_1: None"],
    ),
    "a file for a folder": (lambda *_: None, ["--output", f"{__file__}/m.safetensors"], [f"{__file__} is a file"]),
    "a name that is no UTF-8": (
        lambda *_: None,
        ["--output", os.fsdecode(b"m\xff.safetensors")],
        ["--output", "UTF-8"],
    ),
    "no such base": (lambda *_: None, ["--base_dir", "gone"], ["--base_dir gone is missing"]),
    "no such device": (lambda *_: None, ["--device", "cuda:99"], ["--device cuda:99"]),
}


@pytest.mark.parametrize("full_at", ["card", "model"])
def test_a_full_disk_leaves_what_was_there_and_nothing_new(
    exported, finished_run, two_folds, tmp_path, monkeypatch, full_at
):
    for name in ("old.safetensors", "old.md"):
        shutil.copy(exported / name.replace("old", "model"), tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    writer = "write_text" if full_at == "card" else "write_bytes"
    real = getattr(artefact, writer)

    def full_disk(path, content):
        if path.suffix in (".md", ".safetensors") and not path.name.startswith(BEGUN):
            raise OSError(28, "No space left on device", str(path))
        real(path, content)

    monkeypatch.setattr(artefact, writer, full_disk)
    assert export(finished_run, two_folds, tmp_path / "old.safetensors", "--overwrite", "--choose", "fold_1") == 1
    assert export(finished_run, two_folds, tmp_path / "new.safetensors") == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_same_command_goes_on_after_a_kill_between_card_and_model(
    finished_run, two_folds, tmp_path, monkeypatch, capsys
):
    output, pid = tmp_path / "model.safetensors", os.fork()
    if pid == 0:
        # The last write: card and its own list are there, the model is not.
        hook = WriteHook("model.safetensors", {("before the rename", 1): lambda: os.kill(os.getpid(), signal.SIGKILL)})
        hook.install()
        os._exit(export(finished_run, two_folds, output))
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert (tmp_path / "model.md").exists() and not output.exists()
    with monkeypatch.context() as patch:  # a rerun that fails too takes away what the killed one left

        def full_disk(path, content):
            raise OSError(28, "No space left on device", str(path))

        patch.setattr(artefact, "write_text", full_disk)
        assert export(finished_run, two_folds, output) == 1 and not list(tmp_path.iterdir())
    assert export(finished_run, two_folds, output) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.md", "model.safetensors"], "no temporary is left"
    output.unlink()
    message = refusal(capsys, export_model.main, *argv_of(finished_run, two_folds, output))
    assert "model.md exists" in message, "a card that no killed export left is the user's"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_exit_2_and_write_nothing(own_run, two_folds, tmp_path, capsys, mistake):
    damage, flags, words = MISTAKES[mistake]
    damage(own_run, two_folds)
    output = tmp_path / "out" / "m.safetensors"
    message = refusal(capsys, export_model.main, *argv_of(own_run, two_folds, output, *flags))
    assert [word for word in words if word not in message] == []
    assert not output.parent.exists()
