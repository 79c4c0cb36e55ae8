"""export_model.py through the front door: the file, its card, what is offered by which number, and what is refused."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import evaluate_darkir_test
import export_model
from darkir import NetworkConfig, RestormerConfig, load_network
from darkir.architectures import make_network
from darkir.engine import artefact, onnx_export
from darkir.engine.errors import RunFailed
from darkir.engine.model_card import TOOLKIT
from darkir.engine.provenance import Seen
from darkir.weights import read_weights
from data.files import write_json
from tests.evaluate_runs import results_of
from tests.exits import refusal
from tests.test_network import active
from tests.train_runs import train

ROOT = Path(__file__).resolve().parent.parent
FLAGS = "--cv_dir --choose --test_jsonl --base_dir --num_workers --output --onnx --overwrite --device"

OTHERS = ["numpy", "PIL", "torchvision", "tqdm", "data"]  # what a fresh environment lacks


def argv_of(run, splits, output, *flags):
    words = ["--cv_dir", run, "--output", output, "--num_workers", 0, "--device", "cpu"]
    words += [] if splits is None else ["--test_jsonl", splits / "test.jsonl"]
    return [str(word) for word in (*words, *flags)]


def export(run, splits, output, *flags):
    return export_model.main(argv_of(run, splits, output, *flags))


@pytest.fixture(scope="module")
def exported(finished_run, two_folds, tmp_path_factory):
    """The folder of model.safetensors and its card."""
    folder = tmp_path_factory.mktemp("exported")
    assert export(finished_run, two_folds, folder / "model.safetensors") == 0
    return folder


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of `finished_run` that a test may change."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def change(path, **entries):
    torch.save({**torch.load(path, weights_only=True), **entries}, path)


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def best_of(run):
    """The fold with the best recorded score."""
    summary = json.loads((run / "cv_summary.json").read_text(encoding="utf-8"))
    return "fold_{fold}".format(**max(summary["folds"], key=lambda fold: fold["best_psnr"]))


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
    assert scores["test_photos"] == 2 and scores["test_of_all"].keys() >= {"identity", "fold_1", "fold_2", "average"}


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
        assert re.search(rf"^   {name} +\d+\.\d\d \[", test, re.MULTILINE), name
    assert f"Exported: {best_of(finished_run)} (highest validation PSNR of 2 folds" in log


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


@pytest.fixture(scope="module")
def bare_library(tmp_path_factory):
    """A folder with torch, safetensors, what torch itself requires, and darkir/: what a fresh environment would have."""
    folder, wanted, done = tmp_path_factory.mktemp("bare"), ["torch", "safetensors"], set()
    while wanted:
        name = wanted.pop()
        if name in done:
            continue
        done.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a requirement of another platform
        plain = (text for text in package.requires or () if "extra ==" not in text)
        wanted += [re.match(r"[\w.-]+", text)[0] for text in plain]
        for top in {Path(file).parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
    (folder / "darkir").symlink_to(ROOT / "darkir")
    return folder


def card_code(card):
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), re.DOTALL)
    return code


def run_card(folder, bare_library):
    """Run the card's lines as they stand, where only `bare_library` can be imported; (photo, restored) as they leave them."""
    code = card_code(folder / "model.md")
    assert len(code.splitlines()) == 10
    before = f"import sys; sys.path.append({str(bare_library)!r})\n"
    after = f"""import importlib.util
others = [name for name in {OTHERS} if importlib.util.find_spec(name)]
assert not others, others
from darkir import NetworkConfig, RestormerConfig, load_network
from darkir.architectures import make_network
with torch.inference_mode():
    assert torch.equal(load_network("model.safetensors")(photo).clamp(0, 1), restored)
torch.save((photo, restored), "outcome.pt")
"""
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", before + code + after],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return torch.load(folder / "outcome.pt", weights_only=True)


def test_the_ten_lines_of_the_card_give_the_same_output(exported, finished_run, bare_library):
    photo, restored = run_card(exported, bare_library)
    network = load_network(finished_run / best_of(finished_run) / "checkpoint_best.pt")
    with torch.inference_mode():
        assert torch.equal(restored, network(photo).clamp(0, 1))
    assert not torch.equal(restored, photo)


def test_the_card_tells_scores_data_options_and_limits(exported, finished_run):
    card = (exported / "model.md").read_text(encoding="utf-8")
    best = best_of(finished_run)
    assert card.startswith("# DarkIR-tiny (width 8): model.safetensors\n")
    for row in ("validation, ", "test, 2"):
        assert re.search(rf"^\| {row}\d* \| {best} \| \d+\.\d\d \[\d+\.\d\d, \d+\.\d\d\] \|", card, re.MULTILINE), row
    assert re.search(r"^\| test, 2 \| identity \|", card, re.MULTILINE)
    assert metadata_of(exported / "model.safetensors")["seen_sha256"] in card
    assert "| data.resolution | 16 |" in card and "| loss.lambda_vgg | 0.0 |" in card
    assert "Provenance: known" in card and "FiveK" not in card and "--scale training" in card


def test_earlier_photos_of_unknown_licence_are_said(own_run, two_folds, tmp_path):
    for fold in ("fold_1", "fold_2"):
        seen = Seen(own=frozenset({"a"}), earlier=frozenset({"b"}), known=False, sources=("start.pt",))
        change(own_run / fold / "checkpoint_best.pt", data=seen.as_plain())
    assert export(own_run, two_folds, tmp_path / "m.safetensors") == 0
    card = (tmp_path / "m.md").read_text(encoding="utf-8")
    assert "**Provenance: unknown**" in card and "start.pt" in card and "FiveK" in card
    assert metadata_of(tmp_path / "m.safetensors")["provenance"] == "unknown"
    assert read_weights(tmp_path / "m.safetensors").meta["data"] == seen.as_plain()


def contents_of(run):
    return {fold: torch.load(run / fold / "checkpoint_best.pt", weights_only=True) for fold in ("fold_1", "fold_2")}


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


def test_without_test_photos_the_average_is_refused_and_a_fold_says_so(finished_run, tmp_path, capsys):
    message = refusal(
        capsys, export_model.main, *argv_of(finished_run, None, tmp_path / "m.safetensors", "--choose", "average")
    )
    assert "--choose average" in message and "--test_jsonl" in message and not list(tmp_path.iterdir())
    assert export(finished_run, None, tmp_path / "m.safetensors", "--choose", "fold_1") == 0
    assert "not scored on test photos, as no --test_jsonl is given" in capsys.readouterr().out
    assert metadata_of(tmp_path / "m.safetensors")["weights"] == "fold_1"
    assert "- Not scored on test photos" in (tmp_path / "m.md").read_text(encoding="utf-8")


def test_the_test_photos_of_the_recorded_split_are_found_when_it_is_that_split(own_run, two_folds, tmp_path, capsys):
    def recorded(splits):
        path = own_run / "fold_1" / "checkpoint_best.pt"
        change(path, created_with={"argv": ["train_darkir_cv.py", "--data_splits_dir", str(splits), "--epochs", "2"]})

    recorded(two_folds)
    assert export(own_run, None, tmp_path / "found.safetensors") == 0
    assert f"Test photos: {two_folds / 'test.jsonl'}" in capsys.readouterr().out
    assert json.loads(metadata_of(tmp_path / "found.safetensors")["scores"])["test_photos"] == 2

    other = shutil.copytree(two_folds, tmp_path / "split")
    metadata = json.loads((other / "split_metadata.json").read_text(encoding="utf-8"))
    metadata["folds"] = metadata["folds"][:1]
    write_json(other / "split_metadata.json", metadata)
    recorded(other)
    assert export(own_run, None, tmp_path / "other.safetensors") == 0
    assert "holds another split than the one that was trained on" in capsys.readouterr().out
    assert json.loads(metadata_of(tmp_path / "other.safetensors")["scores"])["test"] is None


def test_a_model_that_is_worse_than_the_photo_as_it_is_says_so(own_run, two_folds, tmp_path, capsys):
    for fold, content in contents_of(own_run).items():
        content["params"]["ending.bias"] += 5.0
        torch.save(content, own_run / fold / "checkpoint_best.pt")
    assert export(own_run, two_folds, tmp_path / "m.safetensors") == 0
    assert "dB on test photos, the photos as they are" in capsys.readouterr().out
    assert "it makes them worse" in (tmp_path / "m.md").read_text(encoding="utf-8")


def test_restormer_is_exported_too(two_folds, tmp_path, bare_library):
    assert train(two_folds, tmp_path / "run", "--arch", "restormer", epochs=1) == 0
    assert export(tmp_path / "run", two_folds, tmp_path / "model.safetensors", "--choose", "fold_2") == 0
    assert metadata_of(tmp_path / "model.safetensors")["arch"] == "restormer"
    photo, restored = run_card(tmp_path, bare_library)
    with torch.inference_mode():
        network = load_network(tmp_path / "run" / "fold_2" / "checkpoint_best.pt")
        assert torch.equal(restored, network(photo).clamp(0, 1))


def test_nothing_is_overwritten_unless_asked(finished_run, two_folds, tmp_path, capsys):
    (tmp_path / "m.md").write_text("mine", encoding="utf-8")
    message = refusal(capsys, export_model.main, *argv_of(finished_run, two_folds, tmp_path / "m.safetensors"))
    assert "m.md exists" in message and (tmp_path / "m.md").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / "m.safetensors").exists()
    assert export(finished_run, two_folds, tmp_path / "m.safetensors", "--overwrite") == 0
    assert (tmp_path / "m.md").read_text(encoding="utf-8") != "mine"


@pytest.mark.parametrize("folder", ["m.safetensors", "m.md"])
def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_written(
    finished_run, two_folds, tmp_path, capsys, folder
):
    (tmp_path / folder).mkdir()
    argv = argv_of(finished_run, two_folds, tmp_path / "m.safetensors", "--overwrite")
    assert "there is a folder" in refusal(capsys, export_model.main, *argv)
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_a_wrong_base_dir_is_refused_without_test_jsonl_too(finished_run, tmp_path, capsys):
    argv = argv_of(finished_run, None, tmp_path / "out/m.safetensors", "--base_dir", tmp_path / "gone")
    assert "--base_dir" in refusal(capsys, export_model.main, *argv) and not (tmp_path / "out").exists()


def test_the_folder_of_a_single_run_is_told_from_a_cross_validation(finished_run, tmp_path, capsys):
    """The advice names no flag that this script lacks."""
    message = refusal(capsys, export_model.main, *argv_of(finished_run / "fold_1", None, tmp_path / "m.safetensors"))
    assert "checkpoint_best.pt" in message and "enhance_photos.py" in message


def leak(run, splits):
    for fold, content in contents_of(run).items():
        rows = (splits / "test.jsonl").read_text(encoding="utf-8").splitlines()
        content["data"]["own"].append(json.loads(rows[0])["src_sha256"])
        torch.save(content, run / fold / "checkpoint_best.pt")


MISTAKES = {
    "no such fold": (lambda *_: None, ["--choose", "fold_3"], ["--choose fold_3", "fold_1, fold_2, average"]),
    "nonsense to choose": (lambda *_: None, ["--choose", "worst"], ["--choose worst"]),
    "another ending": (lambda *_: None, ["--output", "m.pt"], ["--output m.pt", ".safetensors"]),
    "another ending of the ONNX": (lambda *_: None, ["--onnx", "m.pt"], ["--onnx m.pt", ".onnx"]),
    "no run": (lambda run, _: shutil.rmtree(run), [], ["--cv_dir", "missing"]),
    "unfinished": (lambda run, _: (run / "fold_2/checkpoint_final.pt").unlink(), [], ["fold_2", "unfinished"]),
    "no test set": (lambda *_: None, ["--test_jsonl", "gone.jsonl"], ["gone.jsonl"]),
    "a leak": (leak, [], ["fold_1", "saw 1 of the 2 test photos"]),
    "scores of another epoch": (
        lambda run, _: change(run / "fold_1/checkpoint_best.pt", epoch=99),
        [],
        ["checkpoint_best.pt", "epoch 99"],
    ),
    "no scores": (
        lambda run, _: change(run / "fold_1/checkpoint_final.pt", scores=[]),
        [],
        ["fold_1", "no validation"],
    ),
    "no training resolution": (
        lambda run, _: change(run / "fold_1/checkpoint_best.pt", config={"data": {}}),
        [],
        ["training resolution", "fold_1: None"],
    ),
    "a file for a folder": (lambda *_: None, ["--output", f"{__file__}/m.safetensors"], [f"{__file__} is a file"]),
    "a name that is no UTF-8": (
        lambda *_: None,
        ["--output", os.fsdecode(b"m\xff.safetensors")],
        ["--output", "UTF-8"],
    ),
    "no such base": (lambda *_: None, ["--base_dir", "gone"], ["--base_dir gone is missing"]),
    "no such device": (lambda *_: None, ["--device", "cuda:99"], ["--device cuda:99"]),
}


def test_an_overwritten_model_never_stands_beside_a_card_that_is_not_its_own(
    exported, finished_run, two_folds, tmp_path, monkeypatch
):
    shutil.copy(exported / "model.safetensors", tmp_path)

    def full_disk(path, text):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(artefact, "write_text", full_disk)
    assert export(finished_run, two_folds, tmp_path / "model.safetensors", "--overwrite", "--choose", "fold_1") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_exit_2_and_write_nothing(own_run, two_folds, tmp_path, capsys, mistake):
    damage, flags, words = MISTAKES[mistake]
    damage(own_run, two_folds)
    output = tmp_path / "out" / "m.safetensors"
    message = refusal(capsys, export_model.main, *argv_of(own_run, two_folds, output, *flags))
    assert [word for word in words if word not in message] == []
    assert not output.parent.exists()


def test_onnx_gives_the_same_output_at_odd_sizes(own_run, two_folds, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert export(own_run, two_folds, tmp_path / "m.safetensors", "--onnx", tmp_path / "m.onnx") == 0
    network = load_network(tmp_path / "m.safetensors")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for size in ((1, 3, 301, 200), (2, 3, 33, 47)):
        photo = torch.rand(size)
        (output,) = session.run(["restored"], {"src": photo.numpy()})
        with torch.inference_mode():
            assert (network(photo) - torch.from_numpy(output)).abs().max() < 1e-4
    assert "opset 18" in (tmp_path / "m.md").read_text(encoding="utf-8")


ONE_BLOCK = NetworkConfig(width=4, enc_blocks=(1,), middle_enc_blocks=0, middle_dec_blocks=0, dec_blocks=(0,))
FEW_BLOCKS = RestormerConfig(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, heads=(1, 2, 2, 4))


@pytest.mark.parametrize("config", [ONE_BLOCK, FEW_BLOCKS], ids=["darkir", "restormer"])
def test_onnx_of_each_architecture_gives_the_same_output(tmp_path, config):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert onnx_export.write_onnx(active(make_network(config)).eval(), tmp_path / "m.onnx") < 1e-5


def test_onnx_that_differs_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(RunFailed, match="onnxruntime differs by .* nothing is written"):
        onnx_export.write_onnx(make_network(ONE_BLOCK).eval(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_is_refused_at_the_start(finished_run, two_folds, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    flags = ["--onnx", tmp_path / "m.onnx"]
    message = refusal(capsys, export_model.main, *argv_of(finished_run, two_folds, tmp_path / "m.safetensors", *flags))
    assert "--onnx needs the packages onnx, onnxscript and onnxruntime" in message and not list(tmp_path.iterdir())


def test_the_toolkit_names_its_version():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    name, version = (re.search(rf'^{key} = "(.*)"', text, re.MULTILINE)[1] for key in ("name", "version"))
    assert f"{name} {version}" == TOOLKIT
