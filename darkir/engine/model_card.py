"""A chosen candidate with its scores and what it has seen -> the model card, Markdown that stands beside the exported file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from darkir.architectures import NAMES, arch_of, description, title
from darkir.engine import onnx_export
from darkir.engine.candidate_scores import UNSCORED_AVERAGE, untouched_summary
from darkir.engine.candidates import AVERAGE, Candidate
from darkir.engine.choosing import Chosen
from darkir.engine.ensemble import ENSEMBLE, IDENTITY
from darkir.engine.metrics import DIGITS, METRICS
from darkir.engine.pages import fill
from darkir.engine.results import cell
from darkir.engine.runtime import versions
from darkir.engine.trees import flat
from darkir.network import NetworkConfig
from darkir.safetensors_file import seen_digest

TOOLKIT = "darkir-training-toolkit 0.1.0"
BEHAVIOUR = {
    "darkir": "DarkIR pools over the whole image and filters its whole spectrum.",
    "restormer": "Restormer's attention over channels pools over the whole image.",
}


def model_card(chosen: Chosen, output: Path, content: bytes, onnx: tuple[Path, float] | None) -> str:
    """The card's Markdown. content: the bytes of `output`; onnx: that file and its largest difference to PyTorch."""
    candidate = chosen.candidate
    arch, seen = arch_of(candidate.config), candidate.seen
    return fill(
        "model_card.md",
        {"cell": lambda value: str(value).replace("|", "\\|")},
        title=title(candidate.config),
        name=output.name,
        architecture=NAMES[arch],
        config_class="NetworkConfig" if isinstance(candidate.config, NetworkConfig) else "RestormerConfig",
        parameters=sum(parameter.numel() for parameter in candidate.network.parameters()),
        weights="the mean of the folds' weights" if candidate.name == AVERAGE else candidate.name,
        epoch=candidate.epoch,
        chosen_by=chosen.reason,
        warnings=chosen.warnings,
        sources=candidate.sources,
        sha256=hashlib.sha256(content).hexdigest(),
        resolution=candidate.data["resolution"],
        size_seen=_size_seen(**{name: candidate.data[name] for name in ("resolution", "fit")}),
        fit=candidate.data["fit"],
        onnx=None if onnx is None else _onnx(*onnx),
        scores=_score_rows(chosen),
        notes=_notes(chosen),
        own=len(seen.own),
        earlier=len(seen.earlier),
        known=seen.known,
        unknown_sources=seen.sources,
        seen_sha256=seen_digest(seen.as_plain()),
        behaviour=BEHAVIOUR[arch],
        options=flat({"network": description(candidate.config), **options_of(candidate)}),
        toolkit=TOOLKIT,
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
    )


def _size_seen(resolution: int, fit: str) -> str:
    return f"a short side of {resolution} pixels" if fit == "crop" else f"squares of {resolution} x {resolution} pixels"


def options_of(candidate: Candidate) -> dict[str, Any]:
    """What the training was asked for; the average belongs to no single fold's rows."""
    options = candidate.options
    if candidate.name != AVERAGE:
        return options
    return {name: value for name, value in options.items() if not name.endswith("_digest")}


def _score_rows(chosen: Chosen) -> list[dict[str, str]]:
    """Rows of the card's table: the exported weights first, then what they are to be compared with."""
    candidate, rows = chosen.candidate, []
    if candidate.validation is not None:
        photos = f"validation, {len(candidate.validation)}"
        rows += [
            (photos, candidate.name, chosen.validation[candidate.name]),
            (photos, IDENTITY, untouched_summary([candidate])),
        ]
    others = [name for name in chosen.test if name not in (candidate.name, IDENTITY, ENSEMBLE)]
    order = [candidate.name, IDENTITY, *others, ENSEMBLE]
    rows += [(f"test, {chosen.test_photos}", name, chosen.test[name]) for name in order if name in chosen.test]
    return [
        {"photos": photos, "model": name} | {metric: cell(summary[metric], DIGITS[metric], "") for metric in METRICS}
        for photos, name, summary in rows
    ]


def _notes(chosen: Chosen) -> list[str]:
    """How the numbers are to be read."""
    candidate, notes = chosen.candidate, []
    if candidate.validation is None:
        notes.append(f"The average has {UNSCORED_AVERAGE}")
    else:
        notes.append(
            "Validation photos took no part in the updates, but decided which epoch, and by default which fold, was kept: "
            "their scores flatter a little"
        )
    if not chosen.test:
        notes.append("Not scored on test photos")
    if ENSEMBLE in chosen.test:
        notes.append("`ensemble` is the mean of all folds' outputs, which this file is not: it holds one network")
    return notes


def _onnx(path: Path, difference: float) -> dict[str, Any]:
    sizes = ", ".join(f"{batch} x {width} x {height}" for batch, _, height, width in onnx_export.PROVED_SIZES)
    return {
        "name": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "opset": onnx_export.OPSET,
        "smallest": onnx_export.SMALLEST,
        "largest": onnx_export.LARGEST,
        "sizes": sizes,
        "difference": difference,
    }
