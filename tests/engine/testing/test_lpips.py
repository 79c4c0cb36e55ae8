"""evaluate_darkir_test.py --lpips_weights: LPIPS from a local file, with a stub of the package; without it, a refusal."""

import csv
import importlib.util
import sys

import pytest
import torch

from tests.helpers import stub_lpips
from tests.helpers.comparison_runs import OURS, run
from tests.helpers.evaluate_runs import results_of
from tests.helpers.report_page import Page


@pytest.fixture
def package(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", stub_lpips)


def test_it_is_in_results_table_report_and_comparison(gray_pairs, tmp_path, package, capsys):
    stub_lpips.save_weights(tmp_path / "vgg.pth", 3)
    flags = ["--lpips_weights", tmp_path / "vgg.pth"]
    assert run(gray_pairs, tmp_path / "with", *flags) == 0
    out, results = capsys.readouterr().out, results_of(tmp_path / "with")
    # Gray photos that the network leaves as they are, on the scale from -1 to 1.
    expected = {src: 2 * step / 255 for src, step in OURS.items()}
    with open(tmp_path / "with" / "per_image.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "best.pt"]
    assert {row["src"]: float(row["lpips"]) for row in rows} == pytest.approx(expected, abs=1e-6)
    summary = results["ensemble"]["lpips"]
    assert summary["mean"] == pytest.approx(sum(expected.values()) / len(expected)) and len(summary["ci95"]) == 2
    assert results["gain"]["lpips"]["mean"] == pytest.approx(0, abs=1e-7)
    assert results["settings"]["lpips"].startswith("vgg, weights ")
    assert "LPIPS" in out and f"{summary['mean']:.4f} [" in out.split("LPIPS", 1)[1]
    page = Page(tmp_path / "with" / "report.html")
    assert "Colours and LPIPS" in page.text and page.cells("best.pt")[1][-1].startswith(f"{summary['mean']:.4f} [")
    # Compared with results of the same weights, but not with those of others or of none.
    assert run(gray_pairs, tmp_path / "without") == 0
    assert "lpips" not in results_of(tmp_path / "without")["ensemble"]
    assert "LPIPS" not in Page(tmp_path / "without" / "report.html").text.replace("lpips", "")
    for baseline, compared in (("with", True), ("without", False)):
        path = tmp_path / baseline / "test_results.json"
        assert run(gray_pairs, tmp_path / f"to_{baseline}", *flags, "--baseline", path) == 0
        comparison = results_of(tmp_path / f"to_{baseline}")["comparison"]
        assert ("lpips" in comparison["difference"]) is compared
        assert any("LPIPS is left out" in note for note in comparison["notes"]) is not compared
    assert run(gray_pairs, tmp_path / "back", "--baseline", tmp_path / "with" / "test_results.json") == 0
    assert "lpips" not in results_of(tmp_path / "back")["comparison"]["difference"]


def test_files_that_are_no_such_weights_are_refused(gray_pairs, tmp_path, package, capsys):
    stub_lpips.save_weights(tmp_path / "alexnet-owt-7be5be79.pth", 11)
    stub_lpips.save_weights(tmp_path / "alex.pth", 11)
    stub_lpips.save_weights(tmp_path / "other.pth", 5)
    content = torch.load(tmp_path / "alex.pth", weights_only=True)
    torch.save({name: content[name] for name in content if name != "features.2.weight"}, tmp_path / "part.pth")
    torch.save(content | {"features.2.weight": torch.zeros(3, 3, 1, 1)}, tmp_path / "wide.pth")
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    told = {
        "gone.pth": "no such file; run `python -c",
        "alexnet-owt-7be5be79.pth": "is damaged: its sha256 starts with",
        "other.pth": "neither AlexNet's nor VGG16's weights",
        "part.pth": "no sound features.2.weight in it",
        "wide.pth": "not the weights of alex",
        "page.pth": "it is a web page",
        "alex.pth": "LPIPS of alex needs sides of 31 pixels",
    }
    for name, words in told.items():
        assert run(gray_pairs, tmp_path / "out", "--lpips_weights", tmp_path / name) == 2
        message = capsys.readouterr().err
        assert words in message and ("--lpips_weights" in message or name == "alex.pth"), name
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("lpips") is not None, reason="the package is installed")
def test_without_the_package_one_line_says_what_to_install(gray_pairs, tmp_path, capsys):
    message = "--lpips_weights needs the package lpips (No module named 'lpips'); install it: python3 -m pip install -r"
    assert run(gray_pairs, tmp_path / "out", "--lpips_weights", "alex.pth") == 2
    assert f"{message} requirements-lpips.txt" in capsys.readouterr().err and not (tmp_path / "out").exists()
