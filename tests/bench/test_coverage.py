"""The benches of intervals and of choosing a fold, at small numbers: what they claim holds, and the old ways fall short."""

import numpy as np

from bench import choosing, coverage
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


def test_test_photos_find_the_best_fold_more_often_than_validation(capsys):
    found, flattery = choosing.hits(0.3, 30, 300, np.random.Generator(np.random.PCG64(1)))
    assert 1 / 3 < found["psnr"] < found["now"] - 0.1 and 0 < flattery < 0.1
    choosing.main(["--runs", "2"])
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]) == 9 + 2
