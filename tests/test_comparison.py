"""Results against a baseline, through evaluate_darkir_test.py: gray photos whose metrics are known by hand, and refusals."""

import csv
import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import evaluate_darkir_test
from darkir.engine import checkpoint
from darkir.network import DarkIR, NetworkConfig
from data.files import write_csv, write_json, write_jsonl
from data.fingerprint import fingerprint_pairs, set_digest
from data.manifest import read_pairs
from tests.report_page import Page

CONFIG = NetworkConfig(width=8)
COLUMNS = ["src", "model", "psnr", "ssim", "l1"]
SIDE = 16
SRC = 100
# The network adds nothing, so its L1 on each gray photo is this difference, in code values.
OURS = {"a_src.png": 20, "b_src.png": 25, "c_src.png": 30}
THEIRS = {"a_src.png": (20.0, 0.7, 24), "b_src.png": (19.0, 0.8, 31), "c_src.png": (18.5, 0.6, 33)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Three gray pairs, and a model that leaves photos as they are."""
    folder = tmp_path_factory.mktemp("world")
    rows = []
    for src, step in OURS.items():
        tar = src.replace("src", "tar")
        Image.new("RGB", (SIDE, SIDE), (SRC,) * 3).save(folder / src)
        Image.new("RGB", (SIDE, SIDE), (SRC + step,) * 3).save(folder / tar)
        rows.append({"src": src, "tar": tar})
    write_jsonl(folder / "test.jsonl", rows)
    save_model(folder / "best.pt", 0)
    return folder


@pytest.fixture
def other(world, tmp_path):
    """A baseline's folder, as another network's evaluation leaves it: two folds, their ensemble, and no DarkIR anywhere."""
    return write_baseline(tmp_path / "other", world)


def save_model(path, added):
    """A network that adds `added` code values to every pixel."""
    network = DarkIR(CONFIG).eval()
    with torch.no_grad():
        network.ending.weight.zero_()
        network.ending.bias.fill_(added / 255)
    data = {"own": ["some digest"], "earlier": [], "known": True, "sources": []}
    config = {"data": {"resolution": SIDE, "fit": "crop"}}
    checkpoint.save(path, checkpoint.weights_content(network, CONFIG, epoch=7, data=data, config=config))


def write_baseline(folder, world, values=THEIRS, settings=None):
    ensemble = [
        {"src": src, "model": "ensemble", "psnr": psnr, "ssim": ssim, "l1": step / 255}
        for src, (psnr, ssim, step) in values.items()
    ]
    rows = [{**row, "model": model, "l1": 0.9} for row in ensemble for model in ("identity", "one", "two")]
    means = {name: math.fsum(row[name] for row in ensemble) / len(ensemble) for name in COLUMNS[2:]}
    summaries = {name: {"mean": mean, "std": 0.1, "ci95": [mean, mean]} for name, mean in means.items()}
    rows = [*rows, *ensemble]
    random.Random(3).shuffle(rows)
    write_csv(folder / "per_image.csv", COLUMNS, rows)
    results = {
        "schema_version": 1,
        "test_digest": set_digest([pair.row for pair in fingerprint_pairs(read_pairs(world / "test.jsonl"))]),
        "n": len(values),
        "models": [{"name": "one", "epoch": 12, "network": "Restormer"}, {"name": "two", "network": "Restormer"}],
        "ensemble": summaries,
        "folds": [{"model": "one", **summaries}, {"model": "two", **summaries}],
        "identity": summaries,
        "settings": settings or {"resolution": SIDE, "fit": "crop"},
    }
    write_json(folder / "test_results.json", results)
    return folder


def run(world, output, *flags):
    arguments = ["--checkpoint", world / "best.pt", "--test_jsonl", world / "test.jsonl", "--num_workers", 0]
    return evaluate_darkir_test.main([str(each) for each in [*arguments, "--output_dir", output, *flags]])


def comparison_of(output):
    return json.loads((output / "test_results.json").read_text(encoding="utf-8"))["comparison"]


def compared(world, output, *flags):
    assert run(world, output, *flags) == 0
    return comparison_of(output)


def per_photo(folder, model):
    """{last part of src: L1} of one model in a results folder."""
    with (folder / "per_image.csv").open(encoding="utf-8", newline="") as handle:
        return {Path(row["src"]).name: float(row["l1"]) for row in csv.DictReader(handle) if row["model"] == model}


def test_differences_improvement_and_verdict_equal_those_by_hand(world, other, tmp_path):
    comparison = compared(world, tmp_path / "out", "--baseline", other / "test_results.json")
    # Of the 27 draws of 3 photos, 1 in 27 (3.7 %) is three times the least value: the 2.5 % point lies on it.
    l1 = comparison["difference"]["l1"]
    assert l1["mean"] == pytest.approx((-4 - 6 - 3) / 3 / 255, abs=1e-6)
    assert l1["ci95"] == pytest.approx([-6 / 255, -3 / 255], abs=1e-6)
    gains = [-20 * math.log10(OURS[src] / 255) - psnr for src, (psnr, _, _) in THEIRS.items()]
    assert comparison["difference"]["psnr"]["mean"] == pytest.approx(sum(gains) / 3, abs=1e-3)
    assert comparison["difference"]["psnr"]["ci95"] == pytest.approx([min(gains), max(gains)], abs=1e-3)
    bright = [(SRC + step) / 255 for step in OURS.values()]
    ours = [(2 * SRC / 255 * y + 1e-4) / ((SRC / 255) ** 2 + y * y + 1e-4) for y in bright]
    theirs = [ssim for _, ssim, _ in THEIRS.values()]
    assert comparison["difference"]["ssim"]["mean"] == pytest.approx((sum(ours) - sum(theirs)) / 3, abs=1e-4)
    improvement = comparison["l1_improvement_percent"]
    assert improvement["mean"] == pytest.approx(100 * (1 - 75 / 88), abs=1e-3)
    assert improvement["ci95"] == pytest.approx([100 * (1 - 30 / 33), 100 * (1 - 25 / 31)], abs=1e-3)
    assert comparison["verdict"] == [
        {"target_percent": 10, "reached": True, "inside_interval": True},
        {"target_percent": 15, "reached": False, "inside_interval": True},
        {"target_percent": 20, "reached": False, "inside_interval": False},
    ]
    assert comparison["epochs_to_best"] == {
        "ours": {"each": [7], "mean": 7.0},
        "baseline": {"each": [12, None], "mean": 12.0},
    }
    baseline = comparison["baseline"]
    assert (baseline["path"], baseline["models"]) == (str(other / "test_results.json"), ["one", "two"])
    assert baseline["l1"]["mean"] == pytest.approx(88 / 3 / 255, abs=1e-9)
    assert comparison["notes"] == []


def test_comparison_stands_in_log_table_and_report(world, other, tmp_path, capsys):
    assert run(world, tmp_path / "out", "--baseline", other / "test_results.json") == 0
    log = capsys.readouterr().out
    table = {line.split()[0]: line for line in log.splitlines() if line}
    assert table["baseline"].endswith("0.1150 [0.0941, 0.1294]") and "19.17" in table["baseline"]
    assert table["difference"].endswith("-0.0170 [-0.0235, -0.0118]")
    said = "+14.8 % [+9.1, +19.4]"
    verdict = (
        "+10 % reached (open: inside the interval); +15 % not reached (open: inside the interval); +20 % not reached"
    )
    assert said in log and verdict in log and "Epochs to best: 7; baseline: 12, ? (mean 12.0)" in log
    page = Page(tmp_path / "out" / "report.html")
    assert page.cells("baseline")[0][3] == "0.1150 [0.0941, 0.1294]"
    assert page.cells("difference")[0][3] == "-0.0170 [-0.0235, -0.0118]"
    assert said in page.text and verdict in page.text and "baseline: 12, ? (mean 12.0)" in page.text
    assert "one, two" in page.text


def test_without_a_baseline_nothing_is_compared(world, tmp_path, capsys):
    assert run(world, tmp_path / "out") == 0
    assert "comparison" not in json.loads((tmp_path / "out" / "test_results.json").read_text())
    for text in (capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text(encoding="utf-8")):
        assert "Improvement of L1" not in text and "Comparison" not in text


def test_photos_are_matched_by_content_under_other_paths_and_in_another_order(world, tmp_path):
    rows = [{"src": f"{world}/{src}", "tar": f"{world}/{src.replace('src', 'tar')}"} for src in reversed(OURS)]
    write_jsonl(tmp_path / "moved.jsonl", rows)
    save_model(tmp_path / "darker.pt", -3)
    flags = ["--checkpoint", tmp_path / "darker.pt", "--test_jsonl", tmp_path / "moved.jsonl"]
    assert run(world, tmp_path / "first", *flags) == 0
    comparison = compared(world, tmp_path / "out", "--baseline", tmp_path / "first" / "test_results.json")
    before, after = per_photo(tmp_path / "first", "darker.pt"), per_photo(tmp_path / "out", "best.pt")
    assert before == pytest.approx({src: (step + 3) / 255 for src, step in OURS.items()}, abs=1e-6)
    assert after == pytest.approx({src: step / 255 for src, step in OURS.items()}, abs=1e-6)
    # The same 3 code values on every photo: only a right match leaves an interval without width.
    assert comparison["difference"]["l1"]["ci95"] == pytest.approx([-3 / 255, -3 / 255], abs=1e-6)
    assert comparison["l1_improvement_percent"]["mean"] == pytest.approx(100 * 9 / 84, abs=1e-3)
    assert [entry["reached"] for entry in comparison["verdict"]] == [True, False, False]
    assert comparison["notes"] == []


def test_csv_saved_by_a_spreadsheet_is_read(world, other, tmp_path):
    path = other / "per_image.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    comparison = compared(world, tmp_path / "out", "--baseline", other / "test_results.json")
    assert comparison["difference"]["l1"]["mean"] == pytest.approx(-13 / 3 / 255, abs=1e-6)


def test_a_bare_number_gives_no_interval_and_says_so(world, tmp_path, capsys):
    comparison = compared(world, tmp_path / "out", "--baseline_l1", 0.125)
    assert comparison["baseline"] == {"path": None, "models": [], "l1": {"mean": 0.125, "std": None, "ci95": None}}
    assert list(comparison["difference"]) == ["l1"]
    assert comparison["difference"]["l1"]["mean"] == pytest.approx(25 / 255 - 0.125, abs=1e-6)
    improvement = comparison["l1_improvement_percent"]
    assert improvement["mean"] == pytest.approx(100 * (1 - 25 / 255 / 0.125), abs=1e-3)  # 21.6 %
    assert improvement["ci95"] is None
    assert [(entry["reached"], entry["inside_interval"]) for entry in comparison["verdict"]] == [(True, None)] * 3
    assert comparison["epochs_to_best"] == {"ours": {"each": [7], "mean": 7.0}, "baseline": None}
    page = Page(tmp_path / "out" / "report.html")
    for text in (capsys.readouterr().out, page.text):
        assert "no interval" in text and "+21.6 %" in text and "baseline: not recorded" in text
        assert "+20 % reached" in text and "inside the interval" not in text
    assert page.cells("baseline")[0] == ["baseline", "", "", "0.1250"]
    assert page.cells("difference")[0] == ["difference", "", "", "-0.0270"]


def test_a_result_below_its_baseline_is_flagged_with_advice(world, tmp_path, capsys):
    better = {src: (30.0, 0.9, step) for src, step in zip(OURS, (10, 15, 20), strict=True)}
    other = write_baseline(tmp_path / "other", world, better)
    comparison = compared(world, tmp_path / "out", "--baseline", other / "test_results.json")
    assert comparison["l1_improvement_percent"]["mean"] == pytest.approx(100 * (1 - 75 / 45), abs=1e-3)
    (note,) = comparison["notes"]
    assert "worse than the baseline" in note and "--lr" in note
    assert note in capsys.readouterr().out and note in Page(tmp_path / "out" / "report.html").text


def test_what_weakens_a_comparison_is_said(world, tmp_path, capsys):
    other = write_baseline(tmp_path / "other", world, settings={"resolution": 384, "fit": "crop", "tta": True})
    path = other / "test_results.json"
    results = json.loads(path.read_text())
    results["models"][1]["provenance"] = "unknown"
    write_json(path, results)
    changed, unknown = compared(world, tmp_path / "out", "--baseline", path)["notes"]
    assert "resolution 384 there, 16 here" in changed and "tta True there, False here" in changed
    assert "fit" not in changed and "precision" not in changed
    assert "provenance is unknown (two)" in unknown
    assert changed in capsys.readouterr().out


def edit(folder, **changes):
    path = folder / "test_results.json"
    write_json(path, {**json.loads(path.read_text()), **changes})


def replace(folder, name, old, new):
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert re.search(old, text)
    path.write_text(re.sub(old, new, text), encoding="utf-8")


def copy_of_other_photos(folder):
    replace(folder, "test_results.json", '"test_digest": "[0-9a-f]{64}"', f'"test_digest": "{"0" * 64}"')


def drop_rows(folder):
    replace(folder, "per_image.csv", r"c_src.png,ensemble,.*\n", "")


def rename_photo(folder):
    replace(folder, "per_image.csv", "c_src.png", "z_src.png")


def two_bad_rows(folder):
    replace(folder, "per_image.csv", r"(a_src.png,ensemble),20.0,", r"\1,soon,")
    replace(folder, "per_image.csv", r"(b_src.png,ensemble,.*),.*\n", r"\1,0.0\n")


MISTAKES = {
    "missing": (lambda f: (f / "test_results.json").unlink(), ["test_results.json is missing"]),
    "other photos": (copy_of_other_photos, ["other test photos", "000000000000", "--test_jsonl"]),
    "torn": (lambda f: (f / "test_results.json").write_text('{"n": 3, '), ["not JSON"]),
    "not text": (lambda f: (f / "test_results.json").write_bytes(b"\xff\xfe\x00"), ["not JSON"]),
    "a list": (lambda f: (f / "test_results.json").write_text("[]"), ["no JSON object"]),
    "nested": (lambda f: (f / "test_results.json").write_text("[" * 100_000), ["not JSON"]),
    "foreign": (lambda f: (f / "test_results.json").write_text('{"folds": []}'), ["schema_version None"]),
    "later version": (lambda f: edit(f, schema_version=2), ["schema_version 2"]),
    "no folds": (lambda f: edit(f, folds=[]), ["no folds"]),
    "no digest": (lambda f: edit(f, test_digest=None), ["no test_digest"]),
    "no models": (lambda f: edit(f, models={}), ["models"]),
    "no means": (lambda f: edit(f, ensemble={"l1": 3}), ["no means"]),
    "settings": (lambda f: edit(f, settings=[]), ["settings"]),
    "photos": (lambda f: edit(f, photos=[{"src": "a_src.png"}]), ["digest in photos"]),
    "not a number": (lambda f: replace(f, "test_results.json", '"mean": [0-9.]+', '"mean": NaN'), ["NaN"]),
    "no per_image": (lambda f: (f / "per_image.csv").unlink(), ["per_image.csv is missing", "--baseline_l1 0.11503"]),
    "other columns": (lambda f: replace(f, "per_image.csv", "src,model", "photo,model"), ["per_image.csv:1", "src"]),
    "binary rows": (lambda f: (f / "per_image.csv").write_bytes(b"src,model,psnr,ssim,l1\n\xff"), ["not CSV"]),
    "bad rows": (two_bad_rows, ["psnr is 'soon'", "l1 is '0.0'", "(2 faults)", "per_image.csv:"]),
    "row missing": (drop_rows, ["does not belong", "2 rows of ensemble"]),
    "no rows": (lambda f: replace(f, "per_image.csv", "ensemble", "other"), ["does not belong", "0 rows of ensemble"]),
    "rows of another run": (lambda f: replace(f, "per_image.csv", ",18.5,", ",18.6,"), ["does not belong", "psnr"]),
    "unknown photo": (rename_photo, ["without c_src.png"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_baseline_that_cannot_be_used_ends_with_exit_2(world, other, tmp_path, capsys, mistake):
    damage, words = MISTAKES[mistake]
    damage(other)
    assert run(world, tmp_path / "out", "--baseline", other / "test_results.json") == 2
    message = capsys.readouterr().err
    assert [word for word in ["--baseline", str(other), *words] if word not in message] == []
    assert "Traceback" not in message and not (tmp_path / "out").exists()


def test_the_folder_instead_of_the_file_is_refused(world, other, tmp_path, capsys):
    assert run(world, tmp_path / "out", "--baseline", other) == 2
    assert "is a folder; name the test_results.json" in capsys.readouterr().err


def test_a_baseline_that_the_run_would_overwrite_is_refused(world, other, capsys):
    before = (other / "test_results.json").read_bytes()
    assert run(world, other, "--baseline", other / "test_results.json") == 2
    message = capsys.readouterr().err
    assert "--output_dir" in message and "overwrite" in message
    assert (other / "test_results.json").read_bytes() == before


def test_a_test_set_with_other_content_is_refused(world, other, tmp_path, capsys):
    rows = [{"src": src, "tar": src.replace("src", "tar")} for src in list(OURS)[:2]]
    write_jsonl(tmp_path / "fewer.jsonl", rows)
    flags = ["--test_jsonl", tmp_path / "fewer.jsonl", "--base_dir", world]
    assert run(world, tmp_path / "out", "--baseline", other / "test_results.json", *flags) == 2
    message = capsys.readouterr().err
    assert "other test photos" in message and "fewer.jsonl" in message


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--baseline_l1", "0"], ["--baseline_l1 0.0", "above 0"]),
        (["--baseline_l1=-0.05"], ["--baseline_l1 -0.05", "above 0"]),
        (["--baseline_l1", "5.14"], ["--baseline_l1 5.14", "at most 1"]),
        (["--baseline_l1", "nan"], ["--baseline_l1"]),
        (["--baseline_l1", "low"], ["--baseline_l1"]),
        (["--baseline_l1", "0.05", "--baseline", "x.json"], ["--baseline_l1", "--baseline ", "one of them"]),
    ],
)
def test_wrong_flags_end_with_exit_2(world, tmp_path, capsys, flags, words):
    with pytest.raises(SystemExit) as stopped:
        run(world, tmp_path / "out", *flags)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == [] and not (tmp_path / "out").exists()
