"""DarkIR and Restormer side by side: sizes, stages, reading a network off its tensors, and both through the scripts."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import evaluate_darkir_test
import train_darkir_cv
from darkir import DarkIR, Restormer, RestormerConfig, load_network
from darkir.architectures import MODEL_SIZES, count_stages, encoder_stages, stage_of, title
from darkir.blocks import recompute_activations
from darkir.checkpoint_file import read_checkpoint
from darkir.errors import ModelError
from darkir.weights import load_into, make_network
from tests.helpers.paths import PARITY
from tests.helpers.run_records import run_records
from tests.helpers.train_runs import SMALL, assert_same_results, stop_at, train

TINY = MODEL_SIZES["restormer"]["tiny"]


@pytest.fixture(scope="module")
def restormer_run(two_folds, tmp_path_factory) -> Path:
    """An uninterrupted run of both folds with Restormer."""
    output = tmp_path_factory.mktemp("restormer")
    assert train(two_folds, output, "--arch", "restormer") == 0
    return output


def evaluate(splits: Path, output: Path, *flags: object) -> int:
    argv = [*flags, "--test_jsonl", splits / "test.jsonl", "--output_dir", output, "--num_workers", "0"]
    return evaluate_darkir_test.main([str(argument) for argument in argv])


@pytest.mark.parametrize("layer_norm", ["WithBias", "BiasFree"])
def test_published_files_are_recognised_by_their_tensors(layer_norm):
    network = load_network(PARITY / f"restormer_tiny_{layer_norm.lower()}.pt")
    assert isinstance(network, Restormer) and not network.training
    assert network.config == RestormerConfig(**{**vars(TINY), "layer_norm": layer_norm})
    assert title(network.config) == "Restormer-tiny (dim 8)"


@pytest.mark.parametrize("factor", [1.0, 2.0, 2.5, 3.7])
def test_another_expansion_is_read_off_the_tensors(tmp_path, factor):
    network = Restormer(RestormerConfig(**{**vars(TINY), "ffn_expansion": factor}))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    loaded = load_network(tmp_path / "w.pt")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("lost", ["latent.0.", "refinement.", "patch_embed", "encoder_level1.0.attn.temperature"])
def test_a_part_of_a_restormer_is_refused(tmp_path, lost):
    params = {name: tensor for name, tensor in Restormer(TINY).state_dict().items() if not name.startswith(lost)}
    torch.save(params, tmp_path / "part.pt")
    with pytest.raises(ModelError, match="part.pt: "):
        load_network(tmp_path / "part.pt")


def test_weights_of_another_kind_are_refused_with_the_flag_that_fits():
    networks = {
        "--arch restormer --model_size tiny": Restormer(TINY),
        "--layer_norm BiasFree": Restormer(RestormerConfig(**{**vars(TINY), "layer_norm": "BiasFree"})),
    }
    for flag, other in networks.items():
        own = DarkIR() if "--arch" in flag else Restormer(TINY)
        with pytest.raises(ModelError, match=f"w.pt: .*{flag}"):
            load_into(own, other.state_dict(), "w.pt", allow_partial=True)


@pytest.mark.parametrize("arch", MODEL_SIZES)
def test_every_parameter_belongs_to_a_stage_in_the_order_of_the_network(arch):
    network = make_network(MODEL_SIZES[arch]["tiny"])
    stages = {name: stage_of(name, network.config) for name, _ in network.named_parameters()}
    assert {*stages.values()} == {*range(count_stages(network.config))}
    assert encoder_stages(network.config) == 3
    if arch == "restormer":  # its parameters are registered in the order of the forward pass
        assert [*stages.values()] == sorted(stages.values())
        assert [stages[f"{down}.body.0.weight"] for down in ("down1_2", "down2_3", "down3_4")] == [0, 1, 2]


@pytest.mark.long
def test_restormer_with_recomputed_blocks_is_one_graph_for_the_compiler():
    torch.manual_seed(0)
    network, x = Restormer(TINY), torch.rand(1, 3, 16, 19)
    recompute_activations(network)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), network(x), atol=1e-6, rtol=0)
    compiled(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_a_run_says_and_records_what_it_trains(restormer_run, finished_run):
    log = (restormer_run / "train.log").read_text(encoding="utf-8")
    count = sum(parameter.numel() for parameter in Restormer(TINY).parameters())
    assert f"Restormer-tiny (dim 8), {count:,} parameters" in log
    best = restormer_run / "fold_1" / "checkpoint_best.pt"
    assert read_checkpoint(best)["network"]["arch"] == "restormer"
    assert read_checkpoint(finished_run / "fold_1" / "checkpoint_best.pt")["network"]["arch"] == "darkir"
    assert load_network(best).config == TINY
    summary = json.loads((restormer_run / "cv_summary.json").read_text())
    assert summary["config"]["model"]["arch"] == "restormer"
    assert "restormer" in (restormer_run / "report.html").read_text(encoding="utf-8")


def test_a_stopped_run_continues_with_recomputed_activations_to_the_same_result(
    restormer_run, two_folds, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert train(two_folds, tmp_path, "--arch", "restormer") == 75
    assert train(two_folds, tmp_path, "--arch", "restormer", "--checkpoint_activations") == 0
    assert "changes no result: checkpoint_activations: False before, True now" in capsys.readouterr().out
    assert_same_results(run_records(restormer_run), tmp_path)


def test_a_run_from_before_architectures_is_a_darkir(finished_run, two_folds, tmp_path, capsys):
    output = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for path in output.glob("fold_*/checkpoint_final.pt"):
        content = torch.load(path, weights_only=True)
        del content["config"]["model"]["arch"], content["network"]["arch"]
        torch.save(content, path)
    assert train(two_folds, output, "--save_every", "1", "--arch", "restormer") == 2
    assert "arch: darkir before, restormer now" in capsys.readouterr().err
    assert train(two_folds, output, "--save_every", "1") == 0
    assert capsys.readouterr().out.count("finished before, skipped") == 2


def test_frozen_stages_keep_their_weights(restormer_run, two_folds, tmp_path):
    start = restormer_run / "fold_1" / "checkpoint_best.pt"
    flags = ["--arch", "restormer", "--fold", "1", "--pretrained_path", str(start), "--ema_decay", "0"]
    flags += ["--allow_seen_validation", "--freeze_stages", "2", "--layer_decay", "0.5", "--lr", "1e-2"]
    assert train(two_folds, tmp_path, *flags, epochs=1) == 0
    before, after = (read_checkpoint(path)["params"] for path in (start, tmp_path / "fold_1" / "checkpoint_last.pt"))
    for name in before:
        assert torch.equal(before[name], after[name]) == (stage_of(name, TINY) < 2), name


def test_a_dry_run_writes_nothing(two_folds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--data_splits_dir", str(two_folds), "--n_folds", "2", *SMALL, "--arch", "restormer", "--dry_run"]
    assert train_darkir_cv.main(flags) == 0
    assert "Restormer-tiny (dim 8)" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_the_default_folder_has_the_name_of_the_architecture(two_folds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--data_splits_dir", str(two_folds), "--n_folds", "2", "--fold", "1", "--epochs", "1", *SMALL]
    assert train_darkir_cv.main([*flags, "--arch", "restormer"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["outputs_restormer_16_tiny_cv"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--lambda_side", "0.1", "--arch", "restormer"],
        ["--layer_norm", "BiasFree", "--arch", "darkir"],
        ["--freeze_stages", "4", "--arch", "restormer"],
    ],
)
def test_what_an_architecture_has_not_is_a_usage_error(two_folds, tmp_path, capsys, flags):
    with pytest.raises(SystemExit) as ended:
        train(two_folds, tmp_path / "run", *flags)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert flags[0] in message and ("--arch" in message or "3 encoder stages" in message)
    assert not (tmp_path / "run").exists()


def test_darkir_is_compared_with_restormer_on_the_same_photos(finished_run, restormer_run, two_folds, tmp_path, capsys):
    assert evaluate(two_folds, tmp_path / "restormer", "--cv_dir", restormer_run) == 0
    baseline = tmp_path / "restormer" / "test_results.json"
    assert evaluate(two_folds, tmp_path / "darkir", "--cv_dir", finished_run, "--baseline", baseline) == 0
    said = "Networks: DarkIR-tiny (width 8); baseline: Restormer-tiny (dim 8)"
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "darkir" / "report.html").read_text(encoding="utf-8")
    comparison = json.loads((tmp_path / "darkir" / "test_results.json").read_text())["comparison"]
    assert comparison["networks"] == {"ours": ["DarkIR-tiny (width 8)"], "baseline": ["Restormer-tiny (dim 8)"]}
    for metric in ("psnr", "ssim", "l1"):
        ours, theirs = (ensemble_values(tmp_path / name, metric) for name in ("darkir", "restormer"))
        assert ours.keys() == theirs.keys() and ours != theirs
        mean = sum(ours[src] - theirs[src] for src in ours) / len(ours)
        assert comparison["difference"][metric]["mean"] == pytest.approx(mean, abs=1e-9)
        assert comparison["difference"][metric]["ci95"] is None, "two test photos are too few"


def ensemble_values(folder: Path, metric: str) -> dict[str, float]:
    with (folder / "per_image.csv").open(encoding="utf-8", newline="") as handle:
        return {row["src"]: float(row[metric]) for row in csv.DictReader(handle) if row["model"] == "ensemble"}


def test_both_architectures_make_one_ensemble(finished_run, restormer_run, two_folds, tmp_path, capsys):
    files = [run / "fold_1" / "checkpoint_best.pt" for run in (finished_run, restormer_run)]
    assert evaluate(two_folds, tmp_path / "both", "--checkpoint", *files) == 0
    log = capsys.readouterr().out
    assert f": DarkIR-tiny (width 8) from {files[0]}" in log and f": Restormer-tiny (dim 8) from {files[1]}" in log
    results = json.loads((tmp_path / "both" / "test_results.json").read_text())
    assert [model["network"] for model in results["models"]] == ["DarkIR-tiny (width 8)", "Restormer-tiny (dim 8)"]
    assert len({model["name"] for model in results["models"]}) == 2 and ensemble_values(tmp_path / "both", "psnr")
    assert evaluate(two_folds, tmp_path / "none", "--checkpoint", *files, "--arch", "darkir") == 2
    message = capsys.readouterr().err
    assert "--arch darkir" in message and f"{files[1]} holds Restormer-tiny" in message and str(files[0]) not in message
    assert not (tmp_path / "none").exists()


def test_the_size_is_that_of_the_architecture(restormer_run, two_folds, tmp_path, capsys):
    flags = ["--cv_dir", restormer_run, "--arch", "restormer"]
    assert evaluate(two_folds, tmp_path / "none", *flags, "--model_size", "m") == 2
    assert "--model_size m, but" in capsys.readouterr().err
    assert evaluate(two_folds, tmp_path / "some", *flags, "--model_size", "tiny") == 0
