"""The GPU benchmark: its tables are made on the CPU from tiny sizes, and without a CUDA device it ends with exit 2."""

import dataclasses
import json
import time

import pytest
import torch

from bench import bench_gpu, gpu_job

CPU = torch.device("cpu")


def test_the_command_measures_in_processes_and_writes_its_tables(tmp_path, capsys):
    assert bench_gpu.main(["--tiny", "--only", "reference, bf16", "--output_dir", str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    results = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert [result["job"]["work"] for result in results] == ["forward", "step"]
    for result in results:
        assert result["ms"] > 0 and 1e-4 < result["output_error"] < 0.1
        assert f"| reference, bf16 | eager | {result['ms']:.2f} | 1.00 | not measured |" in text
    assert "DarkIR-tiny, training step, batch 2, 24 x 24" in text and "No CUDA device" in text


@pytest.mark.long
def test_a_toolkit_step_is_compiled_profiled_and_close_to_float64():
    job = gpu_job.Job("toolkit", size="tiny", side=16, batch=2, device="cpu", steps=1, profile=True, backend="eager")
    sets, network = gpu_job.image_sets(job, CPU), gpu_job.make_network(job)
    errors = gpu_job.distance_to_float64(job, network, gpu_job.Precision("cpu", None), sets[0])
    assert 0 < errors[0] < 1e-5 and 0 < errors[1] < 0.01
    before = next(network.parameters()).detach().clone()
    call, execution = gpu_job.toolkit_step(job, network, gpu_job.Precision("cpu", None), sets)
    result = gpu_job.measure(job, call, CPU)
    assert execution == "compiled" and result["ms"] > 0 and len(result["kernels"]) == gpu_job.KERNELS
    assert not torch.equal(before, next(network.parameters()))


@pytest.mark.long
def test_a_job_that_fails_gets_a_row_and_the_others_their_figures():
    wanted = [
        gpu_job.Job("reference", size="tiny", side=16, batch=1, device=name, steps=1, warm_up=0)
        for name in ("mps", "cpu")
    ]
    broken, sound = bench_gpu.measured(
        [dataclasses.replace(job, network="reference") for job in wanted], time.monotonic() + 120
    )
    assert sound["ms"] > 0 and broken["failure"]
    assert bench_gpu.row(broken, None)[1].startswith("failed: ")


def test_every_group_of_jobs_has_its_reference():
    groups = {(job.size, job.work, job.batch, job.side) for job in bench_gpu.jobs("vgg19.pth")}
    found = {
        (job.size, job.work, job.batch, job.side) for job in bench_gpu.jobs("vgg19.pth") if job.network == "reference"
    }
    assert (
        groups == found
        and {group[0] for group in groups} == {"m", "l"}
        and {group[3] for group in groups} == {384, 896}
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_so(capsys):
    assert bench_gpu.main([]) == 2
    assert "CUDA device" in capsys.readouterr().err
