"""evaluate_darkir_test.py through its front door: the numbers, the result files, the flags."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

import evaluate_darkir_test
from engine import checkpoint
from engine.colour_metrics import colour_metrics
from engine.inference import with_flips
from engine.intervals import summarise
from tests.helpers.evaluate_runs import (
    METRICS,
    PHOTOS,
    floats,
    noisy_network,
    results_of,
    rows_of,
    run,
    save_weights,
    tar_of,
)
from tests.helpers.metric_oracle import plain_metrics
from tests.helpers.paths import ROOT

COLOUR = ["delta_e", "delta_e_p95", "clipped_percent", "crushed_percent"]


@pytest.fixture(scope="module")
def whole_run(three_folds, tmp_path_factory):
    """The output folder of one run with all outputs."""
    output = tmp_path_factory.mktemp("whole") / "results"
    assert run(three_folds, output, "--save_visuals") == 0
    return output


def network_output(network, src):
    with torch.no_grad():
        image = network(torch.from_numpy(src).float().permute(2, 0, 1)[None])
    return image[0].permute(1, 2, 0).numpy().astype(np.float64)


def test_metrics_and_ensemble_equal_an_independent_computation(three_folds, whole_run):
    networks = {f"fold_{seed}": noisy_network(seed) for seed in (1, 2, 3)}
    expected, raw_range = [], []
    for src in PHOTOS:
        photo, target = floats(three_folds / src), floats(three_folds / tar_of(src))
        outputs = {name: network_output(network, photo) for name, network in networks.items()}
        raw_range += [max(image.max() for image in outputs.values())]
        outputs["ensemble"] = np.mean([image.clip(0, 1) for image in outputs.values()], axis=0)
        for model, image in {"identity": photo, **outputs}.items():
            expected.append({"src": src, "model": model, **plain_metrics(image, target)})
    assert max(raw_range) > 1.05, "the networks must leave [0, 1], or a missing clamp would not show"

    written = rows_of(whole_run)
    assert [(row["src"], row["model"]) for row in written] == [(row["src"], row["model"]) for row in expected]
    for ours, theirs in zip(written, expected, strict=True):
        for name in METRICS:
            assert float(ours[name]) == pytest.approx(theirs[name], abs=2e-4), (ours["src"], ours["model"], name)

    # The means over photos of what test_colour_metrics.py checks photo by photo; the columns stand behind the others.
    results = results_of(whole_run)
    assert list(written[0])[-len(COLOUR) :] == COLOUR
    for name in COLOUR:
        ours = {
            model: [float(row[name]) for row in written if row["model"] == model] for model in ("identity", "ensemble")
        }
        assert results["ensemble"][name]["mean"] == pytest.approx(np.mean(ours["ensemble"])), name
        gain = np.subtract(ours["ensemble"], ours["identity"])
        assert results["gain"][name]["mean"] == pytest.approx(gain.mean()), name
    assert results["identity"]["delta_e"]["mean"] > 5 and results["folds"][2]["clipped_percent"]["mean"] > 0
    images = (torch.from_numpy(floats(three_folds / name)).permute(2, 0, 1)[None] for name in (src, tar_of(src)))
    (record,) = colour_metrics(*images)
    untouched = next(row for row in written if (row["src"], row["model"]) == (src, "identity"))
    assert {name: float(untouched[name]) for name in COLOUR} == pytest.approx(record, abs=1e-4)

    named = {"identity": results["identity"], "ensemble": results["ensemble"]}
    named |= {fold["model"]: fold for fold in results["folds"]}
    for model, summary in named.items():
        for name in METRICS:
            values = [row[name] for row in expected if row["model"] == model]
            assert summary[name]["mean"] == pytest.approx(np.mean(values), abs=2e-4)
            assert summary[name]["std"] == pytest.approx(np.std(values, ddof=1), abs=2e-4)
            low, high = summary[name]["ci95"]
            assert [low, high] == pytest.approx(summarise(values, list(PHOTOS))["ci95"], abs=2e-3)


def test_result_files_have_the_promised_keys(whole_run):
    results = results_of(whole_run)
    assert list(results) == [
        "schema_version", "test_digest", "n", "units", "photos", "models", "ensemble", "folds", "identity", "gain", "settings",
        "created_with", "near_duplicates",
    ]  # fmt: skip
    assert results["near_duplicates"] == {"mode": "refuse", "photos": [], "found": []}
    assert (results["schema_version"], results["n"]) == (1, len(PHOTOS))
    assert [fold["model"] for fold in results["folds"]] == ["fold_1", "fold_2", "fold_3"]
    assert results["settings"]["resolution"] == 64 and results["settings"]["fit"] == "crop"
    model = results["models"][0]
    assert (model["name"], model["epoch"], model["provenance"]) == ("fold_1", 7, "known")
    assert model["validation"] == {"psnr": 20.5, "ssim": 0.8, "l1": 0.1}
    for name in METRICS:
        assert results["gain"][name]["mean"] == pytest.approx(
            results["ensemble"][name]["mean"] - results["identity"][name]["mean"], abs=1e-9
        )
    assert sorted(path.name for path in whole_run.iterdir()) == [
        ".lock", "per_image.csv", "report.html", "test_results.json", "visuals",
    ]  # fmt: skip


def test_batch_size_and_workers_change_nothing(three_folds, whole_run, tmp_path):
    assert run(three_folds, tmp_path / "out", "--batch_size", 1, "--num_workers", 2) == 0
    for ours, theirs in zip(rows_of(tmp_path / "out"), rows_of(whole_run), strict=True):
        assert ours["src"] == theirs["src"] and ours["model"] == theirs["model"]
        assert float(ours["psnr"]) == pytest.approx(float(theirs["psnr"]), abs=1e-4)


def test_same_command_gives_the_same_files(three_folds, whole_run, tmp_path):
    assert run(three_folds, tmp_path / "out", "--save_visuals") == 0
    first, again = results_of(whole_run), results_of(tmp_path / "out")
    first.pop("created_with"), again.pop("created_with")
    assert first == again
    for name in ("per_image.csv", "report.html", "visuals/light_src_comparison.jpg"):
        assert (tmp_path / "out" / name).read_bytes() == (whole_run / name).read_bytes()


def test_known_provenance_does_not_cry_wolf(whole_run):
    assert "rovenance unknown" not in (whole_run / "report.html").read_text(encoding="utf-8")


def test_log_ends_with_an_aligned_table(three_folds, tmp_path, capsys):
    assert run(three_folds, tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines[-13:-1]) <= 120
    for table, name in ((lines[-12:-7], "psnr"), (lines[-6:-1], "delta_e")):
        assert [line.split()[0] for line in table] == ["identity", "fold_1", "fold_2", "fold_3", "ensemble"]
        mean = results_of(tmp_path / "out")["ensemble"][name]
        assert f"{mean['mean']:.2f} [{mean['ci95'][0]:.2f}, {mean['ci95'][1]:.2f}]" in table[-1]
        if name == "psnr":
            places = {tuple(i for i, c in enumerate(line) if c == "[") for line in table}
            assert len(places) == 1, "columns do not line up"


def test_one_model_is_reported_plainly(three_folds, tmp_path, capsys):
    models = ["--checkpoint", three_folds / "cv" / "fold_2" / checkpoint.BEST]
    assert run(three_folds, tmp_path / "out", models=models) == 0
    results = results_of(tmp_path / "out")
    (fold,) = results["folds"]
    assert fold.pop("model") == "checkpoint_best.pt"
    assert results["ensemble"] == fold
    assert {row["model"] for row in rows_of(tmp_path / "out")} == {"identity", "checkpoint_best.pt"}
    assert "ensemble" not in capsys.readouterr().out
    assert "ensemble" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8").lower()


def test_checkpoints_of_one_name_are_told_apart_by_their_folders(three_folds, tmp_path):
    files = [three_folds / "cv" / f"fold_{fold}" / checkpoint.BEST for fold in (1, 3)]
    assert run(three_folds, tmp_path / "out", "--n_folds", 2, models=["--checkpoint", *files]) == 0
    names = [model["name"] for model in results_of(tmp_path / "out")["models"]]
    assert names == ["fold_1/checkpoint_best.pt", "fold_3/checkpoint_best.pt"]


def test_tta_is_the_mean_over_four_flips(three_folds, whole_run, tmp_path):
    network = noisy_network(1)
    save_weights(tmp_path / "one.pt", network)
    models = ["--checkpoint", tmp_path / "one.pt"]
    assert run(three_folds, tmp_path / "out", "--tta", "--resolution", 64, models=models) == 0
    photo, target = floats(three_folds / "a/light_src.png"), floats(three_folds / "a/light_tar.png")
    turned = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    outputs = [network_output(network, photo[::v, ::h].copy())[::v, ::h].clip(0, 1) for v, h in turned]
    ours = next(row for row in rows_of(tmp_path / "out") if (row["src"], row["model"]) == ("a/light_src.png", "one.pt"))
    assert float(ours["psnr"]) == pytest.approx(plain_metrics(np.mean(outputs, axis=0), target)["psnr"], abs=2e-4)
    plain = next(row for row in rows_of(whole_run) if (row["src"], row["model"]) == ("a/light_src.png", "fold_1"))
    assert abs(float(ours["psnr"]) - float(plain["psnr"])) > 1e-3


def test_flips_are_undone():
    image = torch.rand(1, 3, 6, 9)
    assert torch.allclose(with_flips(lambda src: src)(image), image, atol=1e-7)


def test_mixed_precision_stays_close(three_folds, whole_run, tmp_path):
    assert run(three_folds, tmp_path / "out", "--mixed_precision") == 0
    assert results_of(tmp_path / "out")["settings"]["precision"] == "mixed, bfloat16"
    mixed, full = (results_of(folder)["ensemble"]["psnr"]["mean"] for folder in (tmp_path / "out", whole_run))
    assert mixed != full and mixed == pytest.approx(full, abs=0.3)


def test_visual_names_never_collide(three_folds, whole_run):
    names = sorted(path.name for path in (whole_run / "visuals").iterdir())
    assert names == [
        "1_SRC_3_comparison.jpg", "1_src_2_comparison.jpg", "1_src_comparison.jpg", "dark_src_comparison.jpg",
        "light_src_comparison.jpg",
    ]  # fmt: skip
    for name, src in (("1_SRC_3", "b/1_SRC.png"), ("1_src_2", "a/1_src_2.png"), ("1_src", "a/1_src.png")):
        strip = floats(whole_run / "visuals" / f"{name}_comparison.jpg")
        photo = floats(three_folds / src)
        width = photo.shape[1]
        assert strip.shape == (photo.shape[0], 3 * width, 3)
        target = floats(three_folds / tar_of(src))
        assert np.abs(strip[:, :width] - photo).mean() < 0.03
        assert np.abs(strip[:, 2 * width :] - target).mean() < 0.03


def test_flag_list(capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate_darkir_test.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    flags = re.findall(r"^  (?:-h, )?(--\w+)", text, re.MULTILINE)
    assert sorted(flags) == [
        "--arch", "--base_dir", "--baseline", "--baseline_l1", "--batch_size", "--checkpoint", "--cv_dir", "--device",
        "--fit", "--group_key", "--help", "--lpips_weights", "--mixed_precision", "--model_size", "--n_folds", "--near_duplicates",
        "--num_workers", "--output_dir", "--resolution", "--save_visuals", "--test_jsonl", "--tta",
    ]  # fmt: skip
    assert "None" not in text


def test_flags_are_checked_before_torch_is_imported():
    code = "import sys, evaluate_darkir_test; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
