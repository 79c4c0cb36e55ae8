"""The wrappers and the machine: its system, its GPU, linked folders, a wrapper that was copied. Slurm: tests/slurm/."""

import os
import shutil
import subprocess

import pytest

from tests.helpers.wrapper_desk import ROOT


def test_a_gpu_that_cannot_be_used_ends_the_chain_before_it_begins(desk):
    granted = {"STUB_DEVICE": "as it is", "SLURM_JOB_GPUS": "0"}
    hidden = {"CUDA_VISIBLE_DEVICES": "7"}  # of no machine that runs this
    for wrapper in ("train_darkir.sh", "train_with_pretrain.sh"):
        code, _, err = desk.run(wrapper, **granted, **hidden)
        assert code == 2 and err.startswith("error: --device auto: there is a GPU (CUDA_VISIBLE_DEVICES=7), but torch ")
        assert "DEVICE=cpu" in err and desk.calls() == []
    assert desk.run("train_darkir.sh", DEVICE="cpu", **granted, **hidden)[0] == 0
    assert desk.run("train_darkir.sh", CUDA_VISIBLE_DEVICES="", **granted)[0] == 0, "the user wants none"


def test_linked_folders_and_a_copied_wrapper(desk):
    names = {"SPLITS_DIR": "splits", "OUTPUT_DIR": "models", "RESULTS_DIR": "results"}
    for name in names.values():
        (desk.folder / f"disk {name}").mkdir()
        (desk.folder / name).symlink_to(f"disk {name}")
    for _ in range(2):
        code, out, err = desk.run("train_darkir.sh", **names)
        assert code == 0 and "===== Done" in out, err
    assert (desk.folder / "disk models" / "fold_3" / "checkpoint_final.pt").exists() and desk.checks() == 1
    for wrapper in ("train_darkir.sh", "train_with_pretrain.sh"):
        shutil.copy(ROOT / wrapper, desk.folder / "mine.sh")
        copy = ["bash", str(desk.folder / "mine.sh")]
        ended = subprocess.run(
            copy, cwd=desk.folder, env=desk.environment(), capture_output=True, text=True, check=False
        )
        assert ended.returncode == 2 and "needs DARKIR_HOME" in ended.stderr and ended.stderr.count("\n") == 1
        environment = desk.environment(DARKIR_HOME=str(ROOT), **names)
        assert subprocess.run(copy, cwd=desk.folder, env=environment, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("wrapper", ["train_darkir.sh", "train_with_pretrain.sh"])
def test_another_system_is_told_in_one_line(desk, wrapper):
    (desk.folder / "uname").write_text("#!/bin/sh\necho Darwin\n")
    (desk.folder / "uname").chmod(0o755)
    code, _, err = desk.run(wrapper, PATH=f"{desk.folder}:{os.environ['PATH']}")
    assert code == 2 and err == "error: this toolkit runs on Linux; this is Darwin\n"
