"""The benchmarks that need no GPU, at tiny sizes: their tables are complete and their errors right. No time is judged."""

import os
import time

import pytest
import torch

from bench import bench_network, bench_scaling
from bench.measure import peak_memory, relative_error, table, time_in_turn


@pytest.fixture(autouse=True)
def one_cpu(monkeypatch):
    """The tests share the machine: threads that wait for each other would take the time of all."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def cells(text: str, first: str) -> list[list[str]]:
    """The rows of all tables in `text` that begin with `first`, as cells."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0] == first]


def test_calls_take_turns_and_rounds_are_counted_from_the_first_timed_one():
    calls = []
    variants = {name: lambda number, name=name: calls.append((name, number)) for name in "ab"}
    costs = time_in_turn(variants, rounds=2, warm_up=1)
    assert calls == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert all(len(cost.wall) == len(cost.cpu) == 2 for cost in costs.values())


def test_waiting_costs_time_but_no_cpu():
    cost = time_in_turn({"sleep": lambda _: time.sleep(0.05)}, rounds=2)["sleep"]
    assert cost.median >= 0.05
    assert cost.median_cpu < 0.05


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak can be reset on Linux only")
def test_the_peak_is_that_of_the_call():
    peak_memory(lambda: torch.ones(2**25))  # 128 MB
    # The system may take other pages of this process away meanwhile: three tries.
    peak = max(peak_memory(lambda: [torch.ones(2**23), torch.ones(2**23)]) for _ in range(3))
    assert 50e6 < peak < 100e6


def test_tables_are_markdown():
    text = table(("name", "value"), [("a", "1")])
    assert text.splitlines() == ["| name | value |", "| :-- | --: |", "| a | 1 |"]


@pytest.mark.long
def test_network_table_has_every_variant_with_small_errors(capsys):
    bench_network.main(["--width", "4", "--side", "48", "--rounds", "2"])
    text = capsys.readouterr().out
    for name in ("reference", "ours", "ours, channels_last", "reference, again"):
        rows = cells(text, name)
        assert len(rows) == 4  # two workloads, by default and with memory kept
        for row in rows:
            output, *gradient = (float(part.split()[1]) for part in row[-1].split(", "))
            assert output < 1e-5
            assert all(error < 1e-2 for error in gradient)
    assert text.count("memory kept") == 2
    assert "torch" in text.splitlines()[0]


def test_a_wrong_network_shows_as_an_error():
    reference, ours, *_ = bench_network.make_variants(4, compiled=False)
    with torch.no_grad():
        ours.network.decoders[0].modules_list[0].beta.mul_(1.01)
    workload = bench_network.Workload("", 32, 1, training=True)
    errors = bench_network.error_text(*(bench_network.first_values(variant, workload) for variant in (ours, reference)))
    assert float(errors.split()[1].rstrip(",")) > 1e-5
    assert relative_error(torch.ones(3), torch.full((3,), 2.0, dtype=torch.float64)) == 0.5


def test_the_photos_of_the_sets_differ():
    sets = bench_network.photo_sets(16, 2)
    assert len(sets) == bench_network.SETS
    assert all(src.shape == tar.shape == (2, 3, 16, 16) for src, tar in sets)
    assert len({src.sum().item() for src, _ in sets}) == len(sets)


@pytest.mark.long
def test_scaling_has_a_row_a_size_and_a_plot(tmp_path, capsys):
    plot = tmp_path / "scaling.png"
    sizes = ["--sides", "32", "48", "--batches", "1", "2", "--batch_side", "32", "--pairs", "8", "16"]
    bench_scaling.main(["--plot", str(plot), "--rounds", "2", "--width", "4", *sizes])
    text = capsys.readouterr().out
    for name in ("training step, batch 1", "inference, batch 1", "training step, 32 x 32", "inference, 32 x 32"):
        assert len(cells(text, name)) == 2
    assert len(cells(text, "epoch, small network, 64 x 64")) == 2
    assert text.count("time grows as") == 5
    assert "--accumulate_steps" in text.splitlines()[-1]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert plot.stat().st_size < 60_000


def test_the_exponent_is_the_slope_over_the_larger_sizes():
    series = bench_scaling.Series("x", "pixels", [1.0, 2.0, 4.0, 8.0], [9.0, 9.0, 2.0, 4.0], [9, 9, 16, 64])
    assert series.exponents() == "x: time grows as pixels^1.00, memory as pixels^2.00"


def test_an_epoch_sees_every_pair(monkeypatch):
    real, seen = bench_scaling.train_step, []

    def step(stepper, batches, *rest):
        seen.extend(batches[0]["index"].tolist())
        return real(stepper, batches, *rest)

    monkeypatch.setattr(bench_scaling, "train_step", step)
    bench_scaling.over_pairs([8], resolution=32, batch_size=4, rounds=2)
    assert len(seen) == 3 * 8  # one round to warm up
    assert set(seen) == set(range(8))
