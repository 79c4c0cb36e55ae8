"""Baselines that cannot be used, and wrong --baseline flags: exit 2, a reason, nothing written."""

import json
import re

import pytest

from common.files import write_json, write_jsonl
from tests.helpers.comparison_runs import OURS, refused


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
    replace(folder, "per_image.csv", r"(b_src.png,ensemble,[^,]*,[^,]*),[^,]*", r"\1,0.0")


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
    "row missing": (drop_rows, ["does not belong", "5 rows of ensemble"]),
    "no rows": (lambda f: replace(f, "per_image.csv", "ensemble", "other"), ["does not belong", "0 rows of ensemble"]),
    "rows of another run": (lambda f: replace(f, "per_image.csv", ",18.5,", ",18.6,"), ["does not belong", "psnr"]),
    "unknown photo": (rename_photo, ["without c_src.png"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_baseline_that_cannot_be_used_ends_with_exit_2(gray_pairs, other_results, tmp_path, capsys, mistake):
    damage, words = MISTAKES[mistake]
    damage(other_results)
    message = refused(capsys, gray_pairs, tmp_path / "out", "--baseline", other_results / "test_results.json")
    assert [word for word in ["--baseline", str(other_results), *words] if word not in message] == []
    assert not (tmp_path / "out").exists()


def test_the_folder_instead_of_the_file_is_refused(gray_pairs, other_results, tmp_path, capsys):
    assert "is a folder; name the test_results.json" in refused(
        capsys, gray_pairs, tmp_path / "out", "--baseline", other_results
    )


def test_a_baseline_that_the_run_would_overwrite_is_refused(gray_pairs, other_results, capsys):
    before = (other_results / "test_results.json").read_bytes()
    message = refused(capsys, gray_pairs, other_results, "--baseline", other_results / "test_results.json")
    assert "--output_dir" in message and "overwrite" in message
    assert (other_results / "test_results.json").read_bytes() == before


def test_a_test_set_with_other_content_is_refused(gray_pairs, other_results, tmp_path, capsys):
    rows = [{"src": src, "tar": src.replace("src", "tar")} for src in list(OURS)[:2]]
    write_jsonl(tmp_path / "fewer.jsonl", rows)
    flags = ["--test_jsonl", tmp_path / "fewer.jsonl", "--base_dir", gray_pairs]
    message = refused(capsys, gray_pairs, tmp_path / "out", "--baseline", other_results / "test_results.json", *flags)
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
def test_wrong_flags_end_with_exit_2(gray_pairs, tmp_path, capsys, flags, words):
    message = refused(capsys, gray_pairs, tmp_path / "out", *flags)
    assert [word for word in words if word not in message] == [] and not (tmp_path / "out").exists()
