"""export_model.py through the front door: the file, and what is offered by which number."""

import json
import re
import shutil

import pytest
import safetensors.torch
import torch

import evaluate_darkir_test
import export_model
from common.files import write_json
from darkir.architectures import NetworkConfig
from darkir.network import DarkIR
from darkir.weights import read_weights
from engine.exporting.candidates import Candidate, read_folds
from engine.exporting.choose import find_test_pairs
from engine.exporting.ranking import rank_folds
from engine.provenance import Seen
from tests.helpers.evaluate_runs import results_of
from tests.helpers.exits import refusal
from tests.helpers.export_runs import argv_of, best_of, change, contents_of, export, metadata_of
from tests.helpers.photos import write_pairs

FLAGS = "--cv_dir --choose --test_jsonl --base_dir --group_key --near_duplicates --num_workers --output --onnx --overwrite --device"


def test_flags_are_exactly_these(capsys):
    with pytest.raises(SystemExit):
        export_model.main(["--help"])
    assert set(re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE)) == set(FLAGS.split())


def test_the_file_holds_the_best_fold_and_says_what_it_is(exported, finished_run):
    path, best = exported / "model.safetensors", best_of(finished_run)
    source = read_weights(finished_run / best / "checkpoint_best.pt")
    tensors = safetensors.torch.load_file(path)
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()} == {
        name: (torch.float32, tensor.tolist()) for name, tensor in source.params.items()
    }
    metadata = metadata_of(path)
    assert all(isinstance(value, str) for value in metadata.values())
    assert {name: metadata[name] for name in ("arch", "model_size", "color_space", "resolution", "fit", "weights")} == {
        "arch": "darkir",
        "model_size": "tiny",
        "color_space": "sRGB",
        "resolution": "16",
        "fit": "crop",
        "weights": best,
    }
    assert metadata["provenance"] == "known" and int(metadata["seen_count"]) == len(source.meta["data"]["own"])
    assert list(json.loads(metadata["source_sha256"])) == [f"{best}/checkpoint_best.pt"]
    scores = json.loads(metadata["scores"])
    assert scores["validation"]["psnr"]["mean"] == pytest.approx(source.meta["metrics"]["psnr"])
    assert scores["test_photos"] == 2 == scores["test_units"] and scores["test_of_all"].keys() >= {
        "identity",
        "fold_1",
        "fold_2",
        "average",
    }


def test_the_toolkit_reads_back_what_a_checkpoint_says(exported, finished_run):
    meta = read_weights(exported / "model.safetensors").meta
    source = read_weights(finished_run / best_of(finished_run) / "checkpoint_best.pt").meta
    for entry in ("data", "config", "metrics", "epoch"):
        assert meta[entry] == source[entry], entry
    assert meta["network"]["dilations"] == source["network"]["dilations"]


def test_the_same_command_gives_the_same_bytes(exported, finished_run, two_folds, tmp_path):
    assert export(finished_run, two_folds, tmp_path / "model.safetensors") == 0
    for name in ("model.safetensors", "model.md"):
        assert (tmp_path / name).read_bytes() == (exported / name).read_bytes()


def test_both_tables_and_the_missing_score_of_the_average_are_in_the_log(finished_run, two_folds, tmp_path, capsys):
    assert export(finished_run, two_folds, tmp_path / "m.safetensors") == 0
    log = capsys.readouterr().out
    validation, test = log.split("Test, 2 photos", 1)
    assert "average: no validation score" in validation and "average " not in validation.split("Validation, each", 1)[1]
    for name in ("identity", "fold_1", "fold_2", "average", "ensemble"):
        assert re.search(rf"^   {name} +\d+\.\d\d +\d\.\d{{4}} ", test, re.MULTILINE), name
    assert "no interval: 2 independent units (of 2 photos), too few for one:" in test
    assert f"Exported: {best_of(finished_run)} (first of 2 folds by validation PSNR, corrected" in log


def test_a_fold_with_easier_photos_is_not_the_better_one(own_run, two_folds, tmp_path, capsys):
    """Few test units: by validation. The PSNR rises by half of the untouched one's, and fold_2 is 1 dB better beyond that."""
    for fold, (easiest, worth) in {"fold_1": (23, 15), "fold_2": (13, 16)}.items():
        untouched = [float(easiest + step) for step in range(6)]
        rests = (0.1, -0.2, 0.1, 0.1, -0.2, 0.1)  # no slope of their own
        scores = [
            {"src": f"{fold}_{before}", "unit": f"{fold}_{before}", "psnr": before / 2 + worth + rest, "ssim": 0.8, "l1": 0.1,
             "identity_psnr": before, "identity_ssim": 0.6, "identity_l1": 0.2}
            for before, rest in zip(untouched, rests, strict=True)
        ]  # fmt: skip
        change(own_run / fold / "checkpoint_final.pt", scores=scores)
    assert export(own_run, two_folds, tmp_path / "m.safetensors") == 0
    scores = json.loads(metadata_of(tmp_path / "m.safetensors")["scores"])
    lead = scores["lead_db"]
    assert (
        scores["ranking"] == ["fold_2", "fold_1"] and lead["mean"] == pytest.approx(1, abs=0.1) and lead["ci95"][0] > 0
    )
    assert scores["test_nested"] is None
    log, card = capsys.readouterr().out, (tmp_path / "m.md").read_text(encoding="utf-8")
    for text in (log, card):
        assert "first of 2 folds by validation PSNR, corrected for how hard each fold's own photos are" in text
        assert re.search(r"fold_2 is ahead of fold_1 by \+\d\.\d\d dB \[.*\], by .*: more than noise", text)


def test_test_photos_of_enough_units_decide_and_what_beats_a_single_fold_is_said(own_run, tmp_path, capsys):
    """One fold is far too bright and the other far too dark, so that their mean is better than either."""
    for fold, content in contents_of(own_run).items():
        content["params"]["ending.bias"] += {"fold_1": 0.6, "fold_2": -0.6}[fold]
        torch.save(content, own_run / fold / "checkpoint_best.pt")
    write_pairs(tmp_path / "test", 6, first_seed=700).rename(tmp_path / "test" / "test.jsonl")
    flags = ["--near_duplicates", "off"]
    assert export(own_run, tmp_path / "test", tmp_path / "m.safetensors", *flags) == 0
    metadata = metadata_of(tmp_path / "m.safetensors")
    scores = json.loads(metadata["scores"])
    means = {name: scores["test_of_all"][name]["psnr"]["mean"] for name in ("fold_1", "fold_2")}
    first, second = sorted(means, key=lambda name: -means[name])
    assert metadata["weights"] == first and scores["ranking"] == [first, second]
    assert scores["lead_db"]["mean"] == pytest.approx(means[first] - means[second], abs=1e-9)
    assert scores["ranked_by"] == "PSNR on the same 6 test photos"
    assert scores["test_nested"]["psnr"]["mean"] <= means[first] and "delta_e" in scores["test_nested"]
    log, card = capsys.readouterr().out, (tmp_path / "m.md").read_text(encoding="utf-8")
    for text in (log, card):
        assert f"{first} is ahead of {second} by" in text
        for name in ("average", "ensemble"):
            assert re.search(
                rf"The {name} is better than {first} by \+\d+\.\d\d dB \[\+.*\] on the test photos", text
            ), name
    (row,) = re.findall(r"^\| test, 6 in 6 units \| best fold, nested \|.*", card, re.MULTILINE)
    assert row.count("[") == 7 and "Delta E 2000" in log


def test_the_nested_score_is_of_the_fold_that_is_best_on_the_other_units():
    """fold_1 is ahead by its last photo alone: without it fold_2 is best, which scores it with 21 dB."""
    network, seen = DarkIR(NetworkConfig(width=8)), Seen()
    folds = [Candidate(name, network, network.config, seen, {}, 1, {}, [], None) for name in ("fold_1", "fold_2")]
    scores = {"fold_1": [20.0, 20.0, 20.0, 20.0, 20.0, 32.0], "fold_2": [21.0] * 6}
    records = {name: [{"psnr": psnr, "ssim": 0.5, "l1": 0.1} for psnr in values] for name, values in scores.items()}
    ranking = rank_folds(folds, records, list("abcdef"))
    assert ranking.order == ["fold_1", "fold_2"] and ranking.lead["mean"] == pytest.approx(1)
    assert ranking.nested["psnr"]["mean"] == pytest.approx((5 * 20 + 21) / 6)
    assert "+1.00 dB [" in ranking.words() and "within noise, so that either may be the better one" in ranking.words()


def evaluate(checkpoint, test_jsonl, output):
    words = ["--checkpoint", checkpoint, "--test_jsonl", test_jsonl, "--output_dir", output, "--num_workers", 0]
    return evaluate_darkir_test.main([str(word) for word in words])


def test_evaluation_scores_the_file_as_it_scores_the_fold(exported, finished_run, two_folds, tmp_path):
    paths = {
        "file": exported / "model.safetensors",
        "fold": finished_run / best_of(finished_run) / "checkpoint_best.pt",
    }
    results = {}
    for name, path in paths.items():
        assert evaluate(path, two_folds / "test.jsonl", tmp_path / name) == 0
        results[name] = results_of(tmp_path / name)
    assert results["file"]["ensemble"] == results["fold"]["ensemble"]
    assert results["file"]["settings"]["resolution"] == 16
    (model,), (fold,) = (results[name]["models"] for name in paths)
    assert model["provenance"] == "known" and model["validation"] == fold["validation"]
    scores = json.loads(metadata_of(paths["file"])["scores"])
    for metric, summary in scores["test"].items():
        assert summary["mean"] == pytest.approx(results["fold"]["ensemble"][metric]["mean"], abs=1e-5)


def test_the_ensemble_of_the_table_is_that_of_the_folds_alone(exported, finished_run, two_folds, tmp_path):
    words = ["--cv_dir", finished_run, "--test_jsonl", two_folds / "test.jsonl", "--output_dir", tmp_path / "out"]
    assert evaluate_darkir_test.main([str(word) for word in [*words, "--num_workers", 0]]) == 0
    ensemble = json.loads(metadata_of(exported / "model.safetensors")["scores"])["test_of_all"]["ensemble"]
    for metric, summary in results_of(tmp_path / "out")["ensemble"].items():
        assert ensemble[metric]["mean"] == pytest.approx(summary["mean"], abs=1e-5), metric


def test_evaluation_refuses_a_photo_that_the_file_has_seen(exported, two_folds, tmp_path, capsys):
    rows = two_folds / "fold_1" / "val.jsonl"
    count = len(rows.read_text(encoding="utf-8").splitlines())
    assert evaluate(exported / "model.safetensors", rows, tmp_path / "out") == 2
    assert f"saw {count} of the {count} test photos" in capsys.readouterr().err


def test_the_average_is_the_mean_and_warns_when_it_is_worse(own_run, two_folds, tmp_path, capsys):
    best = best_of(own_run)
    contents = contents_of(own_run)
    other = next(fold for fold in contents if fold != best)
    contents[other]["params"]["ending.bias"] += 1.0
    # Each fold saw one photo that the others did not; one was fine-tuned from weights of unknown origin.
    for number, (fold, content) in enumerate(contents.items()):
        content["data"]["own"].append(f"{number:064x}")
        torch.save(content, own_run / fold / "checkpoint_best.pt")
    change(
        own_run / other / "checkpoint_best.pt", data=contents[other]["data"] | {"known": False, "sources": ["x.pth"]}
    )
    assert export(own_run, two_folds, tmp_path / "m.safetensors", "--choose", "average") == 0
    assert re.search(
        rf"⚠️  the average scores .* dB on the test photos, {best} .*; export {best} instead", capsys.readouterr().out
    )
    for name, tensor in safetensors.torch.load_file(tmp_path / "m.safetensors").items():
        both = [content["params"][name].double() for content in contents.values()]
        assert torch.allclose(tensor.double(), sum(both) / 2, rtol=0, atol=1e-6), name
    scores = json.loads(metadata_of(tmp_path / "m.safetensors")["scores"])
    assert scores["validation"] is None and scores["test"] == scores["test_of_all"]["average"]
    card = (tmp_path / "m.md").read_text(encoding="utf-8")
    assert (
        "The average has no validation score" in card
        and "| validation" not in card
        and "**Warning**: the average" in card
    )
    seen = read_weights(tmp_path / "m.safetensors").meta["data"]
    assert set(seen["own"]) == {digest for content in contents.values() for digest in content["data"]["own"]}
    assert not seen["known"] and seen["sources"] == ["x.pth"] and "Provenance: unknown" in card


def test_without_test_photos_the_average_is_refused_and_a_fold_says_so(own_run, tmp_path, capsys):
    path, output = own_run / "fold_1" / "checkpoint_best.pt", tmp_path / "out" / "m.safetensors"
    change(path, split=None)
    message = refusal(capsys, export_model.main, *argv_of(own_run, None, output, "--choose", "average"))
    assert "--choose average" in message and "--test_jsonl" in message and not output.parent.exists()
    assert export(own_run, None, output, "--choose", "fold_1") == 0
    told = "not scored on test photos, as no --test_jsonl is given and the run's own cannot be had"
    assert f"{told}: {path} records no split; name the test pairs with --test_jsonl" in capsys.readouterr().out
    assert metadata_of(output)["weights"] == "fold_1"
    assert "- Not scored on test photos" in output.with_suffix(".md").read_text(encoding="utf-8")


NONSENSE = {
    "not a record": ("split", "records no split"),
    "a folder that is no text": ({"folder": ["a"], "base_dir": None}, "records no split"),
    "a base that is no text": ({"folder": "a", "base_dir": 1}, "records no split"),
    "no folder": ({}, "records no split"),
    "a folder that is gone": ({"folder": "/no/such", "base_dir": None}, "/no/such/split_metadata.json does not exist"),
    "a folder that cannot be": ({"folder": "/" + "x" * 300, "base_dir": None}, "File name too long"),
    "a folder with a null byte": ({"folder": "/a\0b", "base_dir": None}, "does not exist"),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_split_record_that_is_nonsense_is_no_record(own_run, capsys, nonsense):
    split, reason = NONSENSE[nonsense]
    change(own_run / "fold_1" / "checkpoint_best.pt", split=split)
    models = read_folds(own_run, lambda line: None)
    assert find_test_pairs(None, None, None, models, print) == []
    out = capsys.readouterr().out
    assert out.startswith("⚠️  not scored on test photos") and reason in out


def test_the_test_photos_of_the_recorded_split_are_found_when_it_is_that_split(own_run, two_folds, tmp_path, capsys):
    split = {"folder": str(two_folds.resolve()), "base_dir": None}
    assert all(content["split"] == split for content in contents_of(own_run).values())
    assert export(own_run, None, tmp_path / "found.safetensors") == 0
    assert f"Test photos: {two_folds / 'test.jsonl'}" in capsys.readouterr().out
    assert json.loads(metadata_of(tmp_path / "found.safetensors")["scores"])["test_photos"] == 2

    other = shutil.copytree(two_folds, tmp_path / "split")
    metadata = json.loads((other / "split_metadata.json").read_text(encoding="utf-8"))
    metadata["folds"] = metadata["folds"][:1]
    write_json(other / "split_metadata.json", metadata)
    change(own_run / "fold_1" / "checkpoint_best.pt", split={"folder": str(other), "base_dir": None})
    assert export(own_run, None, tmp_path / "other.safetensors") == 0
    assert "another split" in capsys.readouterr().out
    assert json.loads(metadata_of(tmp_path / "other.safetensors")["scores"])["test"] is None
