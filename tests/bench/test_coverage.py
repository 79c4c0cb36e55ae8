"""The bench of intervals at a small number of sets: what it claims holds, and the old way shows as what it was."""

import numpy as np

from bench import coverage
from tests.bench.test_bench import cells


def test_the_new_intervals_cover_where_the_old_ones_did_not():
    rng = np.random.Generator(np.random.PCG64(1))
    scenes = coverage.Setting("", [20] * 12, 0.3)
    before, now = coverage.coverage(scenes, "normal", 400, rng)
    assert before < 0.8 and 0.92 <= now <= 0.98
    few = coverage.Setting("", [5, 5], 0.3, ratio=True)
    before, now = coverage.coverage(few, "lognormal", 20, rng)
    assert now is None


def test_the_table_has_every_setting(capsys, monkeypatch):
    monkeypatch.setattr(coverage, "RESAMPLES", 50)
    coverage.main(["--sets", "2"])
    text = capsys.readouterr().out
    assert cells(text, "2 units x 5 photos")[0][-3:] == ["none given"] * 3
    assert len([line for line in text.splitlines() if line.startswith("|")]) == len(coverage.SETTINGS) + 2
