"""The GPU benchmark: its tables are made on the CPU from tiny sizes, and without a CUDA device it ends with exit 2."""

import pytest
import torch

from bench import bench_gpu
from bench.gpu_operators import HEADER as OPERATOR_HEADER
from bench.gpu_operators import operator_rows
from bench.measure import table

CPU = torch.device("cpu")


def cells(text: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [lines[0], *lines[2:]]


@pytest.mark.parametrize("training", [False, True])
def test_a_table_has_every_variant_with_times_and_errors(training):
    variants = [v for v in bench_gpu.VARIANTS if v.compile_mode is None]
    workload = bench_gpu.Workload(width=4, batch=2, side=16, training=training)
    header, *rows = cells(bench_gpu.compare(workload, variants, CPU, warm_up=1, steps=2))
    assert header == list(bench_gpu.HEADER)
    assert [row[0] for row in rows] == [variant.name for variant in variants]
    errors = {row[0]: float(row[6]) for row in rows}
    assert 0 < errors["reference"] < 1e-6 and errors["reference"] == errors["reference, again"]
    assert 0 < errors["plain"] < 1e-6 and 1e-4 < errors["plain, bfloat16"] < 0.1
    for row in rows:
        assert float(row[1]) > 0 and row[4] == row[5] == "not measured"  # there is no such memory on a CPU
        assert (0 < float(row[7]) < 0.5) if training else row[7] == ""
    assert rows[0][3] == "1.00"


def test_a_variant_that_fails_gets_a_row(monkeypatch):
    def fail(runner, exact, warm_up):
        if runner.variant.kind == "plain":
            raise torch.OutOfMemoryError("no memory left\nmore")
        prepare(runner, exact, warm_up)

    prepare = bench_gpu.prepare
    monkeypatch.setattr(bench_gpu, "prepare", fail)
    variants = [bench_gpu.Variant("reference", "reference"), bench_gpu.Variant("plain", "plain")]
    workload = bench_gpu.Workload(width=4, batch=1, side=16, training=False)
    _, reference, plain = cells(bench_gpu.compare(workload, variants, CPU, warm_up=1, steps=2))
    assert float(reference[1]) > 0
    assert plain[1] == "failed: OutOfMemoryError: no memory left"


def test_operators_are_timed():
    rows = operator_rows(CPU, 1, 16, lambda call: bench_gpu.timed(call, CPU), warm_up=1, steps=2)
    header, *lines = cells(table(OPERATOR_HEADER, rows))
    assert header == list(OPERATOR_HEADER)
    assert len(lines) == 2 * 2 * 3 * 3 + 4 * 2
    assert all(float(line[4]) > 0 for line in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_so(capsys):
    assert bench_gpu.main([]) == 2
    assert "CUDA device" in capsys.readouterr().err
