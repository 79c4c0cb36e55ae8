"""cv_summary.json and its report say what the folds' weights saw: known, or unknown with the files that do not tell."""

import json

import pytest
import torch

import create_data_splits
import train_darkir_cv
from darkir.architectures import NetworkConfig
from darkir.network import DarkIR
from engine.pictures import read_pictures
from tests.helpers.photos import write_pairs
from tests.helpers.report_page import Page

SMALL = "--model_size tiny --epochs 1 --resolution 16 --batch_size 2 --num_workers 0 --lambda_vgg 0 --n_folds 2".split()


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    flags = ["--test_size", "1", "--n_folds", "2", "--output_dir", str(folder / "split")]
    assert create_data_splits.main(["--input_jsonl", str(write_pairs(folder, 5)), *flags]) == 0
    return folder / "split"


def test_provenance_of_each_fold_stands_in_summary_and_report(split, tmp_path):
    published = str(tmp_path / "published.pt")
    torch.save({"params": DarkIR(NetworkConfig(width=8)).state_dict()}, published)
    arguments = ["--data_splits_dir", str(split), "--output_dir", str(tmp_path / "run"), *SMALL]
    assert train_darkir_cv.main([*arguments, "--fold", "2", "--pretrained_path", published]) == 0
    assert folds_of(tmp_path / "run") == [("missing", None, None), ("finished", "unknown", [published])]
    assert train_darkir_cv.main([*arguments, "--fold", "1"]) == 0
    assert folds_of(tmp_path / "run") == [("finished", "known", []), ("finished", "unknown", [published])]
    page = Page(tmp_path / "run" / "report.html")
    photos = sum(len(read_pictures(tmp_path / "run" / f"fold_{fold}")) for fold in (1, 2))
    assert photos == 4 and page.tags.count("figure") == photos + 5, "each photo, and the curves"
    assert len([address for address in page.addresses if address.startswith("data:image/jpeg")]) == photos
    assert f"Fold 2 started from {published}:" in page.text and "Fold 1 started" not in page.text
    assert [page.cells(fold)[0][-1] for fold in ("1", "2")] == ["known", "unknown"]


def test_a_fold_that_records_no_units_counts_each_photo_and_says_so(split, tmp_path, capsys):
    arguments = ["--data_splits_dir", str(split), "--output_dir", str(tmp_path / "run"), *SMALL]
    assert train_darkir_cv.main([*arguments, "--fold", "1"]) == 0
    path = tmp_path / "run" / "fold_1" / "checkpoint_final.pt"
    content = torch.load(path, weights_only=True)
    units = [score.pop("unit") for score in content["scores"]]
    assert len(units) == 2
    torch.save(content, path)
    capsys.readouterr()
    assert train_darkir_cv.main([*arguments, "--fold", "1"]) == 0
    log = capsys.readouterr().out
    assert "fold 1 was trained before units were recorded" in log
    oof = json.loads((tmp_path / "run" / "cv_summary.json").read_text(encoding="utf-8"))["oof"]
    assert (oof["n"], oof["units"], oof["psnr"]["ci95"]) == (2, None, None)
    told = "no interval: 2 photos (units not recorded: photos counted as independent), too few for one"
    assert told in log and told in Page(tmp_path / "run" / "report.html").text


def folds_of(output):
    summary = json.loads((output / "cv_summary.json").read_text(encoding="utf-8"))
    return [(fold["status"], fold.get("provenance"), fold.get("provenance_sources")) for fold in summary["folds"]]


def test_a_broken_last_file_of_another_fold_counts_as_missing(split, tmp_path, capsys):
    arguments = ["--data_splits_dir", str(split), "--output_dir", str(tmp_path / "run"), *SMALL]
    (tmp_path / "run" / "fold_2").mkdir(parents=True)
    (tmp_path / "run" / "fold_2" / "checkpoint_final.pt").write_bytes(b"torn")
    assert train_darkir_cv.main([*arguments, "--fold", "1"]) == 0
    assert "fold_2/checkpoint_final.pt: not a checkpoint" in capsys.readouterr().out
    assert [status for status, *_ in folds_of(tmp_path / "run")] == ["finished", "missing"]
