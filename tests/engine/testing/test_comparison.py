"""Results against a baseline, through evaluate_darkir_test.py: gray photos whose metrics are known by hand."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from common.files import write_json, write_jsonl
from engine.intervals import paired_difference, paired_improvement, summarise
from tests.helpers.comparison_runs import OURS, SRC, THEIRS, refused, run, save_model, write_baseline
from tests.helpers.report_page import Page


def comparison_of(output):
    return json.loads((output / "test_results.json").read_text(encoding="utf-8"))["comparison"]


def compared(gray_pairs, output, *flags):
    assert run(gray_pairs, output, *flags) == 0
    return comparison_of(output)


def per_photo(folder, model):
    """{last part of src: L1} of one model in a results folder."""
    with (folder / "per_image.csv").open(encoding="utf-8", newline="") as handle:
        return {Path(row["src"]).name: float(row["l1"]) for row in csv.DictReader(handle) if row["model"] == model}


def test_differences_improvement_and_verdict_equal_those_by_hand(gray_pairs, other_results, tmp_path):
    comparison = compared(gray_pairs, tmp_path / "out", "--baseline", other_results / "test_results.json")
    l1 = comparison["difference"]["l1"]
    assert l1["mean"] == pytest.approx((-4 - 6 - 3) / 3 / 255, abs=1e-6)
    steps = [step for _, _, step in THEIRS.values()], list(OURS.values())
    assert l1["ci95"] == pytest.approx(np.divide(paired_difference(*steps, list(OURS))["ci95"], 255), abs=1e-6)
    gains = [-20 * math.log10(OURS[src] / 255) - psnr for src, (psnr, _, _) in THEIRS.items()]
    assert comparison["difference"]["psnr"]["mean"] == pytest.approx(sum(gains) / 6, abs=1e-3)
    assert comparison["difference"]["psnr"]["ci95"] == pytest.approx(summarise(gains, list(OURS))["ci95"], abs=1e-3)
    bright = [(SRC + step) / 255 for step in OURS.values()]
    ours = [(2 * SRC / 255 * y + 1e-4) / ((SRC / 255) ** 2 + y * y + 1e-4) for y in bright]
    theirs = [ssim for _, ssim, _ in THEIRS.values()]
    assert comparison["difference"]["ssim"]["mean"] == pytest.approx((sum(ours) - sum(theirs)) / 6, abs=1e-4)
    improvement = comparison["l1_improvement_percent"]
    assert improvement["mean"] == pytest.approx(100 * (1 - 75 / 88), abs=1e-3)
    assert improvement["ci95"] == pytest.approx(paired_improvement(*steps, list(OURS))["ci95"], abs=1e-3)
    assert comparison["verdict"] == [
        {"target_percent": target, "verdict": "undecided", "by": "interval"} for target in (10, 15, 20)
    ]
    assert comparison["epochs_to_best"] == {
        "ours": {"each": [7], "mean": 7.0},
        "baseline": {"each": [12, None], "mean": 12.0},
    }
    baseline = comparison["baseline"]
    assert (baseline["path"], baseline["models"]) == (str(other_results / "test_results.json"), ["one", "two"])
    assert baseline["l1"]["mean"] == pytest.approx(88 / 3 / 255, abs=1e-9)
    assert comparison["notes"] == [] and comparison["convergence"] is None, "an epoch of the baseline is not known"


def test_comparison_stands_in_log_table_and_report(gray_pairs, other_results, tmp_path, capsys):
    assert run(gray_pairs, tmp_path / "out", "--baseline", other_results / "test_results.json") == 0
    log = capsys.readouterr().out
    table = {line.split()[0]: line for line in reversed(log.splitlines()) if line}  # the first table's
    comparison = comparison_of(tmp_path / "out")
    baseline = "0.1150 [{:.4f}, {:.4f}]".format(*comparison["baseline"]["l1"]["ci95"])
    difference = "-0.0170 [{:+.4f}, {:+.4f}]".format(*comparison["difference"]["l1"]["ci95"])
    assert table["baseline"].endswith(baseline) and "19.17" in table["baseline"]
    assert table["difference"].endswith(difference)
    said = "+14.8 % [{:+.1f}, {:+.1f}]".format(*comparison["l1_improvement_percent"]["ci95"])
    verdict = "+10 % undecided; +15 % undecided; +20 % undecided"
    assert said in log and verdict in log and "Epochs to best: 7; baseline: 12, ? (mean 12.0)" in log
    page = Page(tmp_path / "out" / "report.html")
    assert page.cells("baseline")[0][3] == baseline and page.cells("difference")[0][3] == difference
    assert said in page.text and verdict in page.text and "baseline: 12, ? (mean 12.0)" in page.text
    assert "one, two" in page.text


@pytest.mark.parametrize(
    ("epochs", "told"), [(10, "30.0 % fewer, -30 % reached"), (6, "16.7 % more, -30 % not reached")]
)
def test_faster_convergence_has_a_verdict_by_the_means(gray_pairs, other_results, tmp_path, capsys, epochs, told):
    path = other_results / "test_results.json"
    results = json.loads(path.read_text())
    for model in results["models"]:
        model["epoch"] = epochs
    path.write_text(json.dumps(results))
    convergence = compared(gray_pairs, tmp_path / "out", "--baseline", path)["convergence"]  # ours: epoch 7
    assert convergence["fewer_epochs_percent"] == pytest.approx(100 * (1 - 7 / epochs)) and convergence["by"] == "mean"
    for text in (capsys.readouterr().out, Page(tmp_path / "out" / "report.html").text):
        assert f"(mean {epochs:.1f}): {told} (by the mean)" in text


def test_colours_are_compared_where_the_baseline_has_them(gray_pairs, tmp_path, capsys):
    folders = {"new": write_baseline(tmp_path / "new", gray_pairs)}
    folders["old"] = write_baseline(tmp_path / "old", gray_pairs, colour={})
    found = {
        name: compared(gray_pairs, tmp_path / f"out_{name}", "--baseline", folder / "test_results.json")
        for name, folder in folders.items()
    }
    assert found["new"]["baseline"]["delta_e"]["mean"] == 9.0 and found["new"]["notes"] == []
    assert found["new"]["difference"]["crushed_percent"]["mean"] == -0.25
    (page, older) = (Page(tmp_path / f"out_{name}" / "report.html") for name in folders)
    assert page.cells("baseline")[1] == ["baseline", *(f"{x} [{x}, {x}]" for x in ("9.00", "11.00", "0.00", "0.25"))]
    assert found["old"].keys() == found["new"].keys() and list(found["old"]["difference"]) == ["psnr", "ssim", "l1"]
    (note,) = found["old"]["notes"]
    assert "the baseline has no colour metrics" in note and note in capsys.readouterr().out and note in older.text
    assert len(older.cells("baseline")) == 1 < len(page.cells("baseline"))
    csv_file = folders["new"] / "per_image.csv"
    csv_file.write_text(csv_file.read_text().replace(",delta_e,", ",other,"))
    message = refused(capsys, gray_pairs, tmp_path / "no", "--baseline", folders["new"] / "test_results.json")
    assert "no column delta_e;" in message


def test_without_a_baseline_nothing_is_compared(gray_pairs, tmp_path, capsys):
    assert run(gray_pairs, tmp_path / "out") == 0
    assert "comparison" not in json.loads((tmp_path / "out" / "test_results.json").read_text())
    for text in (capsys.readouterr().out, (tmp_path / "out" / "report.html").read_text(encoding="utf-8")):
        assert "Improvement of L1" not in text and "Comparison" not in text


def test_photos_are_matched_by_content_under_other_paths_and_in_another_order(gray_pairs, tmp_path):
    rows = [
        {"src": f"{gray_pairs}/{src}", "tar": f"{gray_pairs}/{src.replace('src', 'tar')}"} for src in reversed(OURS)
    ]
    write_jsonl(tmp_path / "moved.jsonl", rows)
    save_model(tmp_path / "darker.pt", -3)
    flags = ["--checkpoint", tmp_path / "darker.pt", "--test_jsonl", tmp_path / "moved.jsonl"]
    assert run(gray_pairs, tmp_path / "first", *flags) == 0
    comparison = compared(gray_pairs, tmp_path / "out", "--baseline", tmp_path / "first" / "test_results.json")
    before, after = per_photo(tmp_path / "first", "darker.pt"), per_photo(tmp_path / "out", "best.pt")
    assert before == pytest.approx({src: (step + 3) / 255 for src, step in OURS.items()}, abs=1e-6)
    assert after == pytest.approx({src: step / 255 for src, step in OURS.items()}, abs=1e-6)
    # The same 3 code values on every photo: only a right match leaves an interval without width.
    assert comparison["difference"]["l1"]["ci95"] == pytest.approx([-3 / 255, -3 / 255], abs=1e-6)
    assert comparison["l1_improvement_percent"]["mean"] == pytest.approx(100 * 9 / 84, abs=1e-3)
    assert [entry["verdict"] for entry in comparison["verdict"]] == ["undecided", "not reached", "not reached"]
    assert comparison["notes"] == []


def test_csv_saved_by_a_spreadsheet_is_read(gray_pairs, other_results, tmp_path):
    path = other_results / "per_image.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    comparison = compared(gray_pairs, tmp_path / "out", "--baseline", other_results / "test_results.json")
    assert comparison["difference"]["l1"]["mean"] == pytest.approx(-13 / 3 / 255, abs=1e-6)


def test_names_like_formulas_stay_text_and_are_read_back(gray_pairs, tmp_path):
    names = dict(zip(OURS, ("=1+1.png", "+x.png", "'-x.png", "d.png", "e.png", "f.png"), strict=True))
    for src, name in names.items():
        shutil.copy(gray_pairs / src, tmp_path / name)
    listed = [{"src": name, "tar": f"{gray_pairs}/{src.replace('src', 'tar')}"} for src, name in names.items()]
    write_jsonl(tmp_path / "test.jsonl", listed)
    save_model(tmp_path / "@darker.pt", -3)
    flags = ["--test_jsonl", tmp_path / "test.jsonl"]
    assert run(gray_pairs, tmp_path / "first", "--checkpoint", tmp_path / "@darker.pt", *flags) == 0
    with (tmp_path / "first" / "per_image.csv").open(encoding="utf-8", newline="") as handle:
        cells = [(row["src"], row["model"]) for row in csv.DictReader(handle)]
    assert {src for src, _ in cells} >= {"'=1+1.png", "'+x.png", "''-x.png"} and cells[1][1] == "'@darker.pt"
    comparison = compared(gray_pairs, tmp_path / "out", "--baseline", tmp_path / "first" / "test_results.json", *flags)
    assert comparison["difference"]["l1"]["ci95"] == pytest.approx([-3 / 255, -3 / 255], abs=1e-6)


def test_a_verdict_is_reached_only_when_the_whole_interval_is_beyond_it(gray_pairs, tmp_path):
    """All photos improved by a quarter to a third: nothing of the interval is below 20 %."""
    worse = {src: (15.0, 0.5, step * factor) for (src, step), factor in zip(OURS.items(), (1.4, 1.5) * 3, strict=True)}
    other_results = write_baseline(tmp_path / "other", gray_pairs, worse)
    comparison = compared(gray_pairs, tmp_path / "out", "--baseline", other_results / "test_results.json")
    assert [entry["verdict"] for entry in comparison["verdict"]] == ["reached"] * 3


def test_photos_of_few_properties_give_no_interval_and_no_verdict(gray_pairs, other_results, tmp_path, capsys):
    """Six photos of two properties, told by --group_key: the means stay, and what is missing is said in words."""
    rows = [{"src": src, "tar": src.replace("src", "tar"), "property": src < "d"} for src in OURS]
    write_jsonl(tmp_path / "test.jsonl", [{**row, "property": f"no. {row['property'] + 1}"} for row in rows])
    flags = ["--test_jsonl", tmp_path / "test.jsonl", "--base_dir", gray_pairs, "--group_key"]
    baseline = ["--baseline", other_results / "test_results.json"]
    comparison = compared(gray_pairs, tmp_path / "out", *baseline, *flags, "property")
    results = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert (results["n"], results["units"]) == (6, 2) and len({photo["unit"] for photo in results["photos"]}) == 2
    assert comparison["difference"]["l1"]["ci95"] is None is comparison["l1_improvement_percent"]["ci95"]
    assert comparison["difference"]["l1"]["mean"] == pytest.approx(-13 / 3 / 255, abs=1e-6)
    assert [entry["verdict"] for entry in comparison["verdict"]] == ["undecided"] * 3
    log, page = capsys.readouterr().out, Page(tmp_path / "out" / "report.html")
    assert "2 independent units of 6 photos, by 'property' and shared images" in log
    for text in (log, page.text):
        assert "no interval: 2 independent units (of 6 photos), too few for one" in text and "+10 % undecided" in text
        assert (
            "too few for one, so that +10 %, +15 % and +20 % stay undecided" in text
            and "[" not in page.cells("gain")[0][1]
        )
    assert "no row has that field; fields: property" in refused(
        capsys, gray_pairs, tmp_path / "no", *flags, "propertie"
    )


def test_a_bare_number_gives_no_interval_and_says_so(gray_pairs, tmp_path, capsys):
    comparison = compared(gray_pairs, tmp_path / "out", "--baseline_l1", 0.125)
    assert comparison["baseline"] == {"path": None, "models": [], "l1": {"mean": 0.125, "std": None, "ci95": None}}
    assert list(comparison["difference"]) == ["l1"]
    assert comparison["difference"]["l1"]["mean"] == pytest.approx(25 / 255 - 0.125, abs=1e-6)
    improvement = comparison["l1_improvement_percent"]
    assert improvement["mean"] == pytest.approx(100 * (1 - 25 / 255 / 0.125), abs=1e-3)  # 21.6 %
    assert improvement["ci95"] is None
    assert [(entry["verdict"], entry["by"]) for entry in comparison["verdict"]] == [("reached", "mean")] * 3
    assert comparison["epochs_to_best"] == {"ours": {"each": [7], "mean": 7.0}, "baseline": None}
    page = Page(tmp_path / "out" / "report.html")
    for text in (capsys.readouterr().out, page.text):
        assert "no interval" in text and "+21.6 %" in text and "baseline: not recorded" in text
        assert "+20 % reached (by the mean)" in text and "undecided" not in text
    assert page.cells("baseline")[0] == ["baseline", "", "", "0.1250"]
    assert page.cells("difference")[0] == ["difference", "", "", "-0.0270"]


def test_a_result_below_its_baseline_is_flagged_with_advice(gray_pairs, tmp_path, capsys):
    better = {src: (30.0, 0.9, step) for src, step in zip(OURS, (10, 15, 20) * 2, strict=True)}
    other_results = write_baseline(tmp_path / "other", gray_pairs, better)
    comparison = compared(gray_pairs, tmp_path / "out", "--baseline", other_results / "test_results.json")
    assert comparison["l1_improvement_percent"]["mean"] == pytest.approx(100 * (1 - 75 / 45), abs=1e-3)
    assert [entry["verdict"] for entry in comparison["verdict"]] == ["not reached"] * 3
    (note,) = comparison["notes"]
    assert "worse than the baseline" in note and "--lr" in note
    assert note in capsys.readouterr().out and note in Page(tmp_path / "out" / "report.html").text


def test_what_weakens_a_comparison_is_said(gray_pairs, tmp_path, capsys):
    other_results = write_baseline(
        tmp_path / "other", gray_pairs, settings={"resolution": 384, "fit": "crop", "tta": True}
    )
    path = other_results / "test_results.json"
    results = json.loads(path.read_text())
    results["models"][1]["provenance"] = "unknown"
    results["near_duplicates"] = {"mode": "report", "photos": ["a"]}
    write_json(path, results)
    changed, alike, unknown = compared(gray_pairs, tmp_path / "out", "--baseline", path)["notes"]
    assert "resolution 384 there, 16 here" in changed and "tta True there, False here" in changed
    assert "fit" not in changed and "precision" not in changed
    assert "1 of these photos look like photos that the baseline's models learned from" in alike
    assert "provenance is unknown (two)" in unknown
    assert changed in capsys.readouterr().out
