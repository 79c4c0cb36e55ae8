"""--device auto never means the CPU where a GPU was granted: exit 2 with the reason. Torch's answers are stubs, in its words."""

import os

import pytest
import torch

import enhance_photos
import evaluate_darkir_test
import export_model
import train_darkir_cv
from common import gpus
from common.errors import InputError
from engine.runtime import choose_device

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading and "
    "installing a new version from the URL: ..."
)
COMMANDS = {
    train_darkir_cv: "--data_splits_dir none --output_dir out",
    evaluate_darkir_test: "--cv_dir none --test_jsonl none.jsonl --output_dir out",
    enhance_photos: "--cv_dir none --input . --output out",
    export_model: "--cv_dir none --output out.safetensors",
}


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """One without a GPU, outside any job; a file stands in for a device."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "CUDA_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(gpus, "DEVICE_FILES", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)


def refuse_to_start(message):
    def init():
        raise RuntimeError(message)

    return init


@pytest.mark.parametrize("script", COMMANDS, ids=lambda script: script.__name__)
def test_no_script_goes_on_without_the_gpu_that_it_was_given(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", refuse_to_start(TOO_OLD))
    (tmp_path / "photo.jpg").write_bytes(b"")
    assert script.main(COMMANDS[script].split()) == 2
    said = capsys.readouterr().err
    assert (
        said.startswith("error: --device auto: there is a GPU (SLURM_JOB_GPUS=0), but torch ") and said.count("\n") == 1
    )
    assert "too old (found version 12020)" in said and "Please" not in said and "--device cpu" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.jpg"], "and nothing is left"
    assert script.main([*COMMANDS[script].split(), "--device", "cpu"]) == 2
    assert "--device" not in capsys.readouterr().err, "with --device cpu it goes on, to the inputs that are missing"


@pytest.mark.parametrize(
    ("settings", "granted"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "1"}, "CUDA_VISIBLE_DEVICES=1"),
        ({"SLURM_STEP_GPUS": "3"}, "SLURM_STEP_GPUS=3"),
        ({"SLURM_GPUS_ON_NODE": "2"}, "SLURM_GPUS_ON_NODE=2"),
        ({"SLURM_GPUS_PER_NODE": "a100:2"}, "SLURM_GPUS_PER_NODE=a100:2"),
        ({"SLURM_GPUS": "0", "SLURM_GPUS_PER_NODE": "a100:0"}, None),
        ({"SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": ""}, None),
        ({"SLURM_JOB_GPUS": "0", "CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"SLURM_GPUS_ON_NODE": "0", "CUDA_VISIBLE_DEVICES": "NoDevFiles"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_GPUS": ""}, None),
    ],
)
def test_what_grants_a_gpu(settings, granted, monkeypatch):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert gpus.granted_gpu() == granted
    if granted is None:
        assert choose_device("auto").type == "cpu"
    else:
        with pytest.raises(InputError, match="--device auto: there is a GPU"):
            choose_device("auto")


def test_a_device_file_that_may_be_opened_is_a_gpu_and_one_of_another_job_is_none(monkeypatch, tmp_path):
    (tmp_path / "nvidia0").touch()
    with pytest.raises(InputError, match="nvidia0"):
        choose_device("auto")

    def not_yours(path, flags):
        raise PermissionError

    monkeypatch.setattr(gpus.os, "open", not_yours)
    assert choose_device("auto").type == "cpu"


@pytest.mark.parametrize("flag", ["auto", "cuda", "cuda:0"])
def test_a_build_without_cuda_is_named(flag, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(
        InputError, match=f"--device {flag}: .*torch {torch.__version__.split('+')[0]}.* was built without CUDA"
    ):
        choose_device(flag)


@pytest.mark.parametrize(
    ("capability", "built", "works"),
    [
        ((7, 0), ["sm_75", "sm_80", "sm_90"], False),  # V100, CUDA 13
        ((6, 0), ["sm_50", "sm_60", "sm_90"], True),
        ((8, 9), ["sm_75", "sm_80", "sm_86"], True),
        ((8, 0), ["sm_86", "sm_90"], False),
        ((12, 0), ["sm_50", "sm_90"], False),  # too new for its torch
        ((12, 1), ["sm_90", "sm_100", "compute_120"], True),
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((7, 0), ["gfx90a"], True),  # AMD's names tell nothing here
        ((7, 0), [], True),
    ],
)
@pytest.mark.parametrize("flag", ["auto", "cuda:0"])
def test_a_card_for_which_torch_has_no_code_is_refused(flag, capability, built, works, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    if works:
        assert choose_device(flag).type == "cuda"
        return
    with pytest.raises(
        InputError, match=rf"--device {flag}: the Tesla V100 has compute capability {capability[0]}\.{capability[1]}"
    ):
        choose_device(flag)
