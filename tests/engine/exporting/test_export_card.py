"""The model card of export_model.py: its ten lines run as they stand, and it tells what the run recorded."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import darkir
from darkir import load_network
from darkir.weights import read_weights
from engine.provenance import Seen
from tests.helpers.export_runs import best_of, change, contents_of, export, metadata_of
from tests.helpers.paths import ROOT
from tests.helpers.train_runs import train

OTHERS = ["numpy", "PIL", "torchvision", "tqdm", "data"]  # what a fresh environment lacks


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
    assert sum(bool(line) for line in code.splitlines()) == 10
    before = f"import sys; sys.path.append({str(bare_library)!r})\n"
    after = f"""import importlib.util
others = [name for name in {OTHERS} if importlib.util.find_spec(name)]
assert not others, others
from darkir import NetworkConfig, RestormerConfig, load_network
from darkir.weights import make_network
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


@pytest.mark.long
def test_restormer_is_exported_too(two_folds, tmp_path, bare_library):
    assert train(two_folds, tmp_path / "run", "--arch", "restormer", epochs=1) == 0
    assert export(tmp_path / "run", two_folds, tmp_path / "model.safetensors", "--choose", "fold_2") == 0
    assert metadata_of(tmp_path / "model.safetensors")["arch"] == "restormer"
    photo, restored = run_card(tmp_path, bare_library)
    with torch.inference_mode():
        network = load_network(tmp_path / "run" / "fold_2" / "checkpoint_best.pt")
        assert torch.equal(restored, network(photo).clamp(0, 1))


def test_the_card_tells_scores_data_options_and_limits(exported, finished_run):
    card = (exported / "model.md").read_text(encoding="utf-8")
    best = best_of(finished_run)
    assert card.startswith("# DarkIR-tiny (width 8): model.safetensors\n")
    for row in (r"validation, (\d) in \1 units", "test, 2 in 2 units"):
        assert re.search(rf"^\| {row} \| {best} \| \d+\.\d\d \|", card, re.MULTILINE), row
    assert re.search(r"^\| test, 2 in 2 units \| identity \|", card, re.MULTILINE)
    assert re.search(
        r"^- Test: no interval: 2 independent units \(of 2 photos\), too few for one\.$", card, re.MULTILINE
    )
    assert metadata_of(exported / "model.safetensors")["seen_sha256"] in card
    assert "| data.resolution | 16 |" in card and "| loss.lambda_vgg | 0.0 |" in card
    assert "Provenance: known" in card and "FiveK" not in card and "--scale training" in card


def test_folds_of_before_units_were_recorded_have_no_count_of_units(own_run, two_folds, tmp_path, capsys):
    for fold in ("fold_1", "fold_2"):
        path = own_run / fold / "checkpoint_final.pt"
        scores = torch.load(path, weights_only=True)["scores"]
        change(path, scores=[{name: score[name] for name in score if name != "unit"} for score in scores])
    assert export(own_run, two_folds, tmp_path / "m.safetensors") == 0
    card, log = (tmp_path / "m.md").read_text(encoding="utf-8"), capsys.readouterr().out
    count, words = len(scores), "(units not recorded: photos counted as independent)"
    assert f"| validation, {count} {words} | fold_" in card and "| test, 2 in 2 units |" in card
    assert re.search(rf"^fold_1: .* {re.escape(words)}.* in validation$", log, re.MULTILINE)
    assert json.loads(metadata_of(tmp_path / "m.safetensors")["scores"])["validation_units"] is None


def test_earlier_photos_of_unknown_licence_are_said(own_run, two_folds, tmp_path):
    for fold in ("fold_1", "fold_2"):
        seen = Seen(own=frozenset({"a"}), earlier=frozenset({"b"}), known=False, sources=("start.pt",))
        change(own_run / fold / "checkpoint_best.pt", data=seen.as_plain())
    assert export(own_run, two_folds, tmp_path / "m.safetensors") == 0
    card = (tmp_path / "m.md").read_text(encoding="utf-8")
    assert "**Provenance: unknown**" in card and "start.pt" in card and "FiveK" in card
    assert metadata_of(tmp_path / "m.safetensors")["provenance"] == "unknown"
    assert read_weights(tmp_path / "m.safetensors").meta["data"] == seen.as_plain()


def test_a_model_that_is_worse_than_the_photo_as_it_is_says_so(own_run, two_folds, tmp_path, capsys):
    for fold, content in contents_of(own_run).items():
        content["params"]["ending.bias"] += 5.0
        torch.save(content, own_run / fold / "checkpoint_best.pt")
    assert export(own_run, two_folds, tmp_path / "m.safetensors") == 0
    assert "dB on test photos" in capsys.readouterr().out
    assert "it makes them worse" in (tmp_path / "m.md").read_text(encoding="utf-8")


def test_the_toolkit_names_its_version(exported):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    name = re.search(r'^name = "(.*)"', text, re.MULTILINE)[1]
    toolkit = f"{name} {darkir.__version__}"
    assert metadata_of(exported / "model.safetensors")["toolkit"] == toolkit
    assert f"Exported by {toolkit}, python" in (exported / "model.md").read_text(encoding="utf-8")
