"""evaluate_darkir_test.py through its front door: tiny fold models and photos in, metrics, pictures and refusals out."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate_darkir_test
from darkir.engine import checkpoint
from darkir.engine.ensemble import restored_by_each, with_flips
from darkir.engine.errors import RunFailed
from darkir.engine.provenance import Seen, digests
from darkir.engine.visuals import to_bytes
from darkir.network import DarkIR, NetworkConfig
from data import stop
from data.files import write_jsonl
from data.fingerprint import fingerprint_pairs
from data.manifest import read_pairs

ROOT = Path(__file__).resolve().parent.parent
CONFIG = NetworkConfig(width=8)
METRICS = ("psnr", "ssim", "l1")
# Two sizes, so that batches mix; two stems that collide once case and folder are gone, and one that takes the number.
PHOTOS = {
    "a/1_src.png": (48, 40),
    "b/1_SRC.png": (48, 40),
    "a/1_src_2.png": (40, 48),
    "a/dark_src.png": (48, 40),
    "a/light_src.png": (48, 40),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Photos with their JSONL, and the output folder of a three-fold run; tests that change something copy it."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.Generator(np.random.PCG64(5))
    rows = []
    for number, (src, (width, height)) in enumerate(PHOTOS.items()):
        ramp = np.linspace(0.1, 0.6 + 0.08 * number, width)[None, :, None] * np.linspace(0.6, 1, height)[:, None, None]
        tar = (ramp * [1.0, 0.9, 0.8] + rng.normal(0, 0.03, (height, width, 3))).clip(0, 1)
        save_png(folder / src, tar * 0.6)
        save_png(folder / src.replace("_src", "_tar").replace("_SRC", "_TAR"), tar)
        rows.append({"src": src, "tar": src.replace("_src", "_tar").replace("_SRC", "_TAR")})
    write_jsonl(folder / "test.jsonl", rows)
    for fold in (1, 2, 3):
        save_fold(folder / "cv", fold, noisy_network(fold))
    return folder


@pytest.fixture
def own_world(world, tmp_path):
    """A copy of `world` that a test may change."""
    return Path(shutil.copytree(world, tmp_path / "world"))


@pytest.fixture(scope="module")
def whole_run(world, tmp_path_factory):
    """The output folder of one run with all outputs."""
    output = tmp_path_factory.mktemp("whole") / "results"
    assert run(world, output, "--save_visuals") == 0
    return output


@pytest.fixture(autouse=True)
def no_signal_left():
    yield
    stop.clear()


def save_png(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(values * 255).astype(np.uint8)).save(path)


def noisy_network(seed, brightness=0.2):
    """A network that brightens, differs with its seed, and leaves [0, 1] at places."""
    torch.manual_seed(seed)
    network = DarkIR(CONFIG).eval()
    with torch.no_grad():
        network.ending.bias += brightness + 0.03 * seed
        for name, parameter in network.named_parameters():
            if name.endswith(("beta", "gamma")):
                parameter += 0.1 * torch.randn_like(parameter)
    return network


def save_weights(path, network, **facts):
    checkpoint.save(path, checkpoint.weights_content(network, CONFIG, **facts))


def save_fold(cv_dir, fold, network, seen=None, resolution=64, finished=True):
    facts = {
        "data": (seen or Seen(own=frozenset({f"digest {fold}"}))).as_plain(),
        "config": {"data": {"resolution": resolution, "fit": "crop"}},
        "fold": fold,
    }
    folder = cv_dir / f"fold_{fold}"
    save_weights(folder / checkpoint.BEST, network, metrics={"psnr": 20.5, "ssim": 0.8, "l1": 0.1}, epoch=7, **facts)
    if finished:
        save_weights(folder / checkpoint.FINAL, network, finished={"fold": fold}, scores=[], history=[], **facts)


def run(world, output, *more, models=None):
    models = ["--cv_dir", world / "cv"] if models is None else models
    arguments = [*models, "--test_jsonl", world / "test.jsonl", "--output_dir", output, "--num_workers", 0, *more]
    return evaluate_darkir_test.main([str(argument) for argument in arguments])


def refused(world, output, *more, models=None):
    """Run, expecting exit 2 with nothing written; argparse raises where the other mistakes return."""
    try:
        code = run(world, output, *more, models=models)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert not output.exists()


def results_of(output):
    def no_constants(text):
        raise AssertionError(f"{text} is not strict JSON")

    return json.loads((output / "test_results.json").read_text(encoding="utf-8"), parse_constant=no_constants)


def rows_of(output):
    with (output / "per_image.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def floats(path):
    return np.asarray(Image.open(path), dtype=np.float64) / 255


def network_output(network, src):
    with torch.no_grad():
        image = network(torch.from_numpy(src).float().permute(2, 0, 1)[None])
    return image[0].permute(1, 2, 0).numpy().astype(np.float64)


def plain_metrics(restored, target):
    """The definitions written down once more, in float64 and without the project's code."""
    restored = restored.clip(0, 1)
    taps = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blur(plane):
        rows = np.lib.stride_tricks.sliding_window_view(plane, 11, axis=0) @ taps
        return np.lib.stride_tricks.sliding_window_view(rows, 11, axis=1) @ taps

    structure = []
    for x, y in zip(np.moveaxis(restored, 2, 0), np.moveaxis(target, 2, 0), strict=True):
        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
        structure.append(((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))).mean())
    return {
        "psnr": -10 * np.log10(((restored - target) ** 2).mean()),
        "ssim": np.mean(structure),
        "l1": np.abs(restored - target).mean(),
    }


def test_metrics_and_ensemble_equal_an_independent_computation(world, whole_run):
    networks = {f"fold_{seed}": noisy_network(seed) for seed in (1, 2, 3)}
    expected, raw_range = [], []
    for src in PHOTOS:
        photo, target = floats(world / src), floats(world / src.replace("_src", "_tar").replace("_SRC", "_TAR"))
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

    results = results_of(whole_run)
    named = {"identity": results["identity"], "ensemble": results["ensemble"]}
    named |= {fold["model"]: fold for fold in results["folds"]}
    for model, summary in named.items():
        for name in METRICS:
            values = [row[name] for row in expected if row["model"] == model]
            assert summary[name]["mean"] == pytest.approx(np.mean(values), abs=2e-4)
            assert summary[name]["std"] == pytest.approx(np.std(values, ddof=1), abs=2e-4)
            low, high = summary[name]["ci95"]
            assert min(values) - 1e-3 <= low <= summary[name]["mean"] <= high <= max(values) + 1e-3


def test_result_files_have_the_promised_keys(whole_run):
    results = results_of(whole_run)
    assert sorted(results) == sorted(
        [
            "schema_version",
            "test_digest",
            "n",
            "photos",
            "models",
            "ensemble",
            "folds",
            "identity",
            "gain",
            "settings",
            "created_with",
        ]
    )
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


def test_batch_size_and_workers_change_nothing(world, whole_run, tmp_path):
    assert run(world, tmp_path / "out", "--batch_size", 1, "--num_workers", 2) == 0
    for ours, theirs in zip(rows_of(tmp_path / "out"), rows_of(whole_run), strict=True):
        assert ours["src"] == theirs["src"] and ours["model"] == theirs["model"]
        assert float(ours["psnr"]) == pytest.approx(float(theirs["psnr"]), abs=1e-4)


def test_same_command_gives_the_same_files(world, whole_run, tmp_path):
    assert run(world, tmp_path / "out", "--save_visuals") == 0
    first, again = results_of(whole_run), results_of(tmp_path / "out")
    first.pop("created_with"), again.pop("created_with")
    assert first == again
    for name in ("per_image.csv", "report.html", "visuals/light_src_comparison.jpg"):
        assert (tmp_path / "out" / name).read_bytes() == (whole_run / name).read_bytes()


def test_log_ends_with_an_aligned_table(world, tmp_path, capsys):
    assert run(world, tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[-6:-1]
    assert [line.split()[0] for line in table] == ["identity", "fold_1", "fold_2", "fold_3", "ensemble"]
    mean = results_of(tmp_path / "out")["ensemble"]["psnr"]
    assert f"{mean['mean']:.2f} [{mean['ci95'][0]:.2f}, {mean['ci95'][1]:.2f}]" in table[-1]
    assert len({tuple(i for i, c in enumerate(line) if c == "[") for line in table}) == 1, "columns do not line up"


def test_visual_names_never_collide(world, whole_run):
    names = sorted(path.name for path in (whole_run / "visuals").iterdir())
    assert names == [
        "1_SRC_3_comparison.jpg", "1_src_2_comparison.jpg", "1_src_comparison.jpg", "dark_src_comparison.jpg",
        "light_src_comparison.jpg",
    ]  # fmt: skip
    for name, src in (("1_SRC_3", "b/1_SRC.png"), ("1_src_2", "a/1_src_2.png"), ("1_src", "a/1_src.png")):
        strip = floats(whole_run / "visuals" / f"{name}_comparison.jpg")
        photo = floats(world / src)
        width = photo.shape[1]
        assert strip.shape == (photo.shape[0], 3 * width, 3)
        target = floats(world / src.replace("_src", "_tar").replace("_SRC", "_TAR"))
        assert np.abs(strip[:, :width] - photo).mean() < 0.03
        assert np.abs(strip[:, 2 * width :] - target).mean() < 0.03


def test_values_above_one_become_white_and_not_black(world, tmp_path):
    network = noisy_network(1)
    with torch.no_grad():
        network.ending.weight.zero_()
        network.ending.bias.fill_(1.004)
    save_weights(tmp_path / "white.pt", network)
    assert run(world, tmp_path / "out", "--save_visuals", models=["--checkpoint", tmp_path / "white.pt"]) == 0
    strip = np.asarray(Image.open(tmp_path / "out" / "visuals" / "light_src_comparison.jpg"))
    assert strip[:, 52:92].min() > 245


def test_bytes_of_pictures_are_clamped_and_rounded():
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.004]).expand(3, 1, 6)
    assert to_bytes(values)[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255]


def test_a_run_without_pictures_removes_those_of_the_former_run(own_world):
    output = own_world / "out"
    assert run(own_world, output, "--save_visuals") == 0
    (output / "visuals" / "my notes.txt").write_text("keep")
    assert run(own_world, output) == 0
    assert [path.name for path in (output / "visuals").iterdir()] == ["my notes.txt"]
    assert "visuals/" not in (output / "report.html").read_text(encoding="utf-8")


def test_recorded_resolution_is_used_and_a_flag_overrides_it(own_world, capsys):
    for fold in (1, 2, 3):
        save_fold(own_world / "cv", fold, noisy_network(fold), resolution=24)
    assert run(own_world, own_world / "small", "--save_visuals") == 0
    assert "instead of" not in capsys.readouterr().out
    assert results_of(own_world / "small")["settings"]["resolution"] == 24
    assert Image.open(own_world / "small" / "visuals" / "light_src_comparison.jpg").size == (3 * 29, 24)
    assert run(own_world, own_world / "large", "--resolution", 32, "--fit", "squash", "--save_visuals") == 0
    assert "--resolution 32 instead of 24" in capsys.readouterr().out
    assert Image.open(own_world / "large" / "visuals" / "light_src_comparison.jpg").size == (3 * 32, 32)


def test_folds_trained_at_different_resolutions_need_a_decision(own_world, capsys):
    save_fold(own_world / "cv", 2, noisy_network(2), resolution=48)
    refused(own_world, own_world / "out")
    message = capsys.readouterr().err
    assert "fold_1: 64" in message and "fold_2: 48" in message and "--resolution" in message
    assert run(own_world, own_world / "out", "--resolution", 48) == 0


def test_one_model_is_reported_plainly(world, tmp_path, capsys):
    models = ["--checkpoint", world / "cv" / "fold_2" / checkpoint.BEST]
    assert run(world, tmp_path / "out", models=models) == 0
    results = results_of(tmp_path / "out")
    (fold,) = results["folds"]
    assert fold.pop("model") == "checkpoint_best.pt"
    assert results["ensemble"] == fold
    assert {row["model"] for row in rows_of(tmp_path / "out")} == {"identity", "checkpoint_best.pt"}
    assert "ensemble" not in capsys.readouterr().out
    assert "ensemble" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8").lower()


def test_checkpoints_of_one_name_are_told_apart_by_their_folders(world, tmp_path):
    files = [world / "cv" / f"fold_{fold}" / checkpoint.BEST for fold in (1, 3)]
    assert run(world, tmp_path / "out", "--n_folds", 2, models=["--checkpoint", *files]) == 0
    names = [model["name"] for model in results_of(tmp_path / "out")["models"]]
    assert names == ["fold_1/checkpoint_best.pt", "fold_3/checkpoint_best.pt"]


def test_tta_is_the_mean_over_four_flips(world, whole_run, tmp_path):
    network = noisy_network(1)
    save_weights(tmp_path / "one.pt", network)
    assert run(world, tmp_path / "out", "--tta", "--resolution", 64, models=["--checkpoint", tmp_path / "one.pt"]) == 0
    photo, target = floats(world / "a/light_src.png"), floats(world / "a/light_tar.png")
    turned = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    outputs = [network_output(network, photo[::v, ::h].copy())[::v, ::h].clip(0, 1) for v, h in turned]
    ours = next(row for row in rows_of(tmp_path / "out") if (row["src"], row["model"]) == ("a/light_src.png", "one.pt"))
    assert float(ours["psnr"]) == pytest.approx(plain_metrics(np.mean(outputs, axis=0), target)["psnr"], abs=2e-4)
    plain = next(row for row in rows_of(whole_run) if (row["src"], row["model"]) == ("a/light_src.png", "fold_1"))
    assert abs(float(ours["psnr"]) - float(plain["psnr"])) > 1e-3


def test_mixed_precision_stays_close(world, whole_run, tmp_path):
    assert run(world, tmp_path / "out", "--mixed_precision") == 0
    assert results_of(tmp_path / "out")["settings"]["precision"] == "mixed, bfloat16"
    mixed, full = (results_of(folder)["ensemble"]["psnr"]["mean"] for folder in (tmp_path / "out", whole_run))
    assert mixed != full and mixed == pytest.approx(full, abs=0.3)


@pytest.mark.parametrize("when", ["own", "earlier"])
@pytest.mark.parametrize("kind", ["src_sha256", "tar_file_sha256"])
def test_a_model_that_saw_a_test_photo_is_refused(own_world, capsys, when, kind):
    pairs = fingerprint_pairs(read_pairs(own_world / "test.jsonl"))
    seen = Seen(**{when: frozenset({"something else", pairs[3].row[kind]})})
    save_fold(own_world / "cv", 2, noisy_network(2), seen=seen)
    refused(own_world, own_world / "out")
    message = capsys.readouterr().err
    assert "fold_2" in message and "a/dark_src.png" in message and "test.jsonl:4" in message


def test_stale_digests_in_the_rows_do_not_hide_a_leak(own_world):
    pairs = fingerprint_pairs(read_pairs(own_world / "test.jsonl"))
    save_fold(own_world / "cv", 1, noisy_network(1), seen=Seen(own=digests(pairs[:1])))
    rows = [pair.row for pair in pairs]
    for name in ("src_sha256", "tar_sha256", "src_file_sha256", "tar_file_sha256"):
        rows[0][name] = "0" * 64
    write_jsonl(own_world / "test.jsonl", rows)
    for name in ("src", "tar"):
        os.utime(own_world / rows[0][name], ns=(1, 1))
    refused(own_world, own_world / "out")


def test_unknown_provenance_is_said_everywhere(world, tmp_path, capsys):
    torch.save({"params": noisy_network(1).state_dict()}, tmp_path / "published.pt")
    assert run(world, tmp_path / "out", models=["--checkpoint", tmp_path / "published.pt"]) == 0
    log = capsys.readouterr().out
    assert "provenance unknown" in log and "record no resolution: using --resolution 384" in log
    (model,) = results_of(tmp_path / "out")["models"]
    assert model["provenance"] == "unknown"
    assert "Provenance unknown" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_known_provenance_does_not_cry_wolf(whole_run):
    assert "rovenance unknown" not in (whole_run / "report.html").read_text(encoding="utf-8")


def break_manifest(world):
    with (world / "test.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"src": \n{"src": "a/gone.png", "tar": "a/1_tar.png"}\n')


def break_image(world):
    (world / "a" / "dark_src.png").write_bytes(b"not an image")


def tiny_photo(world):
    for name in ("a/dark_src.png", "a/dark_tar.png"):
        save_png(world / name, np.zeros((10, 48, 3)))


def tear_fold(world):
    path = world / "cv" / "fold_1" / checkpoint.BEST
    path.write_bytes(path.read_bytes()[:5000])


def single_run(world):
    shutil.move(world / "cv" / "fold_1" / checkpoint.BEST, world / "cv" / checkpoint.BEST)
    for fold in (1, 2, 3):
        shutil.rmtree(world / "cv" / f"fold_{fold}")


MISTAKES = {
    "test set missing": (lambda w: (w / "test.jsonl").unlink(), [], ["test.jsonl"]),
    "rows broken": (break_manifest, [], ["test.jsonl:6", "test.jsonl:7"]),
    "image unreadable": (break_image, [], ["test.jsonl:4", "dark_src.png"]),
    "photo too small": (tiny_photo, [], ["test.jsonl:4", "11"]),
    "base_dir wrong": (lambda w: None, ["--base_dir", "nowhere"], ["--base_dir", "nowhere"]),
    "no folds": (lambda w: shutil.rmtree(w / "cv"), [], ["--cv_dir", "missing"]),
    "fold missing": (lambda w: shutil.rmtree(w / "cv" / "fold_2"), [], ["fold_2", "missing"]),
    "fold unfinished": (lambda w: (w / "cv/fold_3" / checkpoint.FINAL).unlink(), [], ["fold_3", "unfinished"]),
    "best gone": (lambda w: (w / "cv/fold_3" / checkpoint.BEST).unlink(), [], ["fold_3", checkpoint.BEST]),
    "checkpoint torn": (tear_fold, [], ["fold_1", checkpoint.BEST]),
    "single run as folds": (single_run, [], ["--checkpoint", checkpoint.BEST]),
    "n_folds too large": (lambda w: None, ["--n_folds", 4], ["fold_4", "missing"]),
    "n_folds too small": (lambda w: None, ["--n_folds", 2], ["--n_folds 2", "fold_3"]),
    "model_size wrong": (lambda w: None, ["--model_size", "l"], ["--model_size l", "fold_1", "width 8"]),
    "model_size unknown": (lambda w: None, ["--model_size", "xl"], ["--model_size"]),
    "resolution wrong": (lambda w: None, ["--resolution", 8], ["--resolution 8"]),
    "batch_size wrong": (lambda w: None, ["--batch_size", 0], ["--batch_size 0"]),
    "device wrong": (lambda w: None, ["--device", "cuda:99"], ["--device cuda:99"]),
    "abbreviated flag": (lambda w: None, ["--save_vis"], ["--save_vis"]),
    "both sources": (lambda w: None, ["--checkpoint", "x.pt"], ["--checkpoint", "--cv_dir"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_exit_2_and_say_what_is_wrong(own_world, capsys, mistake):
    damage, flags, words = MISTAKES[mistake]
    damage(own_world)
    refused(own_world, own_world / "out", *flags)
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == []
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], ["--cv_dir", "--checkpoint"]),
        (["--checkpoint", "gone.pt"], ["gone.pt"]),
        (["--checkpoint", "notes.txt"], ["notes.txt", "not a checkpoint"]),
        (["--checkpoint", "other.pt"], ["other.pt"]),
        (["--checkpoint", "good.pt", "good.pt"], ["good.pt", "more than once"]),
        (["--checkpoint", "good.pt", "--n_folds", "3"], ["--n_folds 3", "1 file"]),
    ],
)
def test_wrong_checkpoints_end_with_exit_2(world, tmp_path, monkeypatch, capsys, models, words):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("hello, this is no checkpoint")
    torch.save({"params": {"weight": torch.zeros(3)}}, "other.pt")
    save_weights(Path("good.pt"), noisy_network(1))
    refused(world, tmp_path / "out", models=models)
    message = capsys.readouterr().err
    assert [word for word in words if word not in message] == []


def test_missing_folds_are_found_through_the_summary(own_world, capsys):
    summary = {"folds": [{"fold": fold, "status": "finished"} for fold in (1, 2, 3, 4)]}
    (own_world / "cv" / "cv_summary.json").write_text(json.dumps(summary))
    refused(own_world, own_world / "out")
    assert "fold_4 is missing" in capsys.readouterr().err
    refused(own_world, own_world / "out", "--n_folds", 3)
    message = capsys.readouterr().err
    assert "--n_folds 3" in message and "lists 4 folds" in message
    (own_world / "cv" / "cv_summary.json").write_text("{")
    refused(own_world, own_world / "out")
    assert "cv_summary.json" in capsys.readouterr().err


def test_output_dir_that_is_a_file_is_refused(world, tmp_path, capsys):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        run(world, tmp_path / "out")
    assert stopped.value.code == 2
    assert "--output_dir" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


def test_model_size_that_fits_is_accepted(world, tmp_path):
    network = DarkIR(NetworkConfig(width=32))
    content = checkpoint.weights_content(network, NetworkConfig(width=32))
    checkpoint.save(tmp_path / "m.pt", content)
    write_jsonl(tmp_path / "test.jsonl", [{"src": str(world / "a/1_src.png"), "tar": str(world / "a/1_tar.png")}])
    models = ["--checkpoint", tmp_path / "m.pt", "--model_size", "m"]
    assert run(tmp_path, tmp_path / "out", models=models) == 0
    results = results_of(tmp_path / "out")
    assert results["models"][0]["network"] == "DarkIR-m (width 32)"
    assert results["models"][0]["parameters"] == 3_321_638
    # A fresh network has beta and gamma 0 but a random last convolution: it is not the identity.
    assert results["ensemble"] != results["identity"]


def test_output_that_is_not_finite_is_a_failure_with_nothing_written(world, tmp_path, capsys):
    network = noisy_network(1)
    with torch.no_grad():
        network.intro.weight.fill_(3e38)
    save_weights(tmp_path / "wild.pt", network)
    output = tmp_path / "out"
    assert run(world, output, models=["--checkpoint", tmp_path / "wild.pt"]) == 1
    message = capsys.readouterr().err
    assert "wild.pt" in message and "not finite" in message and "1_src.png" in message
    assert [path.name for path in output.iterdir()] == [".lock"]


def test_out_of_memory_says_what_to_lower():
    def greedy(src):
        raise torch.OutOfMemoryError("no")

    with pytest.raises(RunFailed, match="fold_1: no memory for a batch of 2 x 20 x 16 pixels; lower --batch_size"):
        list(restored_by_each({"fold_1": greedy}, torch.zeros(2, 3, 16, 20)))


def test_a_signal_ends_the_run_and_leaves_the_former_results(own_world, monkeypatch, capsys):
    output = own_world / "out"
    assert run(own_world, output, "--save_visuals") == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    save_fold(own_world / "cv", 1, noisy_network(9))
    handlers = {number: signal.getsignal(number) for number in stop.SIGNALS}
    add = evaluate_darkir_test.Pictures.add

    def add_then_stop(self, *arguments):
        add(self, *arguments)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(evaluate_darkir_test.Pictures, "add", add_then_stop)
    stop.install()
    try:
        assert run(own_world, output, "--save_visuals", "--batch_size", 1) == 75
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "SIGTERM" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in output.iterdir()) == [
        ".lock", "per_image.csv", "report.html", "test_results.json", "visuals",
    ]  # fmt: skip


def test_leftovers_of_a_killed_run_are_cleared(own_world):
    output = own_world / "out"
    (output / "visuals.tmp.").mkdir(parents=True)
    (output / "visuals.tmp." / "old_comparison.jpg").write_bytes(b"half")
    (output / "test_results.tmp.123.json").write_text("half")
    assert run(own_world, output, "--save_visuals") == 0
    assert not [path for path in output.iterdir() if ".tmp." in path.name]
    assert len(list((output / "visuals").iterdir())) == len(PHOTOS)


def test_a_second_run_into_the_same_folder_is_refused(world, tmp_path, capsys):
    holder = "import sys; from data.files import FolderLock\nwith FolderLock(sys.argv[1]): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, tmp_path / "out"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        assert run(world, tmp_path / "out") == 2
        process.communicate(b"\n")
    assert "in use by process" in capsys.readouterr().err
    assert run(world, tmp_path / "out") == 0


def test_flag_list(capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluate_darkir_test.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    flags = re.findall(r"^  (?:-h, )?(--\w+)", text, re.MULTILINE)
    assert sorted(flags) == sorted(
        [
            "--help",
            "--cv_dir",
            "--checkpoint",
            "--model_size",
            "--n_folds",
            "--test_jsonl",
            "--base_dir",
            "--resolution",
            "--fit",
            "--batch_size",
            "--num_workers",
            "--tta",
            "--mixed_precision",
            "--save_visuals",
            "--baseline",
            "--baseline_l1",
            "--output_dir",
            "--device",
        ]
    )
    assert "None" not in text


def test_flips_are_undone():
    image = torch.rand(1, 3, 6, 9)
    assert torch.allclose(with_flips(lambda src: src)(image), image, atol=1e-7)
