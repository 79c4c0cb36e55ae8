"""The chosen candidate, its scores and what it has seen -> one .safetensors file, and a model card (Markdown) beside it."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import darkir
from common.files import atomic_output, file_digest, remove_stale_temporaries, write_bytes, write_text
from common.log import RunLog
from common.options import flat, plain
from common.pages import fill
from darkir.architectures import NAMES, NetworkConfig, arch_of, description, size_of, title
from darkir.checkpoint_file import ENSEMBLE_VERSION, SCHEMA_VERSION, seen_digest, to_bytes
from darkir.ensemble import Ensemble
from engine.exporting import onnx_export
from engine.exporting.candidates import AVERAGE, UNSCORED, Candidate, untouched_summary
from engine.exporting.choose import Chosen
from engine.exporting.config import begun_file, left_by_killed_export
from engine.inference import ENSEMBLE, IDENTITY
from engine.intervals import UNRECORDED, count_units, interval_words
from engine.metrics import COLOUR, DIGITS, METRICS
from engine.runtime import created_with, versions
from engine.testing.results import cell

NESTED = "best fold, nested"
TOOLKIT = f"darkir-training-toolkit {darkir.__version__}"
WEIGHTS = {
    AVERAGE: "the mean of the folds' weights",
    ENSEMBLE: "all folds, one network each; the output is the mean of theirs, each clamped to [0, 1]",
}
BEHAVIOUR = {
    "darkir": "DarkIR pools over the whole image and filters its whole spectrum.",
    "restormer": "Restormer's attention over channels pools over the whole image.",
}


def write_artefact(chosen: Chosen, output: Path, card: Path, onnx: Path | None, log: RunLog) -> None:
    """Write `onnx` when that is wanted, the `card`, and `output` last, so that it never stands without its own card.

    Raises RunFailed when the ONNX file would differ from PyTorch. After any fault nothing of this export is left, and what it would
    have replaced is as it was.
    """
    content = artefact_bytes(chosen)
    beside = [card] if onnx is None else [card, onnx]
    for folder in {path.parent for path in (output, *beside)}:
        remove_stale_temporaries(folder)
    if not output.exists():
        for path in left_by_killed_export(output, beside):
            path.unlink(missing_ok=True)
    write_bytes(begun_file(output), b"".join(os.fsencode(path.absolute()) + b"\n" for path in beside))
    try:
        with contextlib.ExitStack() as files:
            # All are whole before the first is renamed, the one that was opened last.
            model_file, card_file = (files.enter_context(atomic_output(path)) for path in (output, card))
            proved = None
            if onnx is not None:
                onnx_file = files.enter_context(atomic_output(onnx))
                difference = onnx_export.write_onnx(chosen.candidate.network, onnx_file)
                proved = _onnx(onnx.name, file_digest(onnx_file), difference)
                log(f"{onnx}: differs from PyTorch by at most {difference:.1e} in onnxruntime")
            write_text(card_file, model_card(chosen, output, content, proved))
            write_bytes(model_file, content)
            output.unlink(missing_ok=True)  # with --overwrite: the old model must not stand beside the new card
    finally:
        begun_file(output).unlink()
    seen = len(json.dumps(chosen.candidate.seen.as_plain()))
    log(
        f"{output}: {len(content) / 1e6:.1f} MB, {seen / 1e3:.0f} KB of them digests and looks of the photos seen; card: {card}"
    )


def artefact_bytes(chosen: Chosen) -> bytes:
    """The content of the .safetensors file. Scores: all that was measured, with what is missing as null."""
    candidate, network = chosen.candidate, chosen.candidate.network
    members = list(network.members) if isinstance(network, Ensemble) else [candidate.name]
    validation = chosen.validation.get(candidate.name)
    scores = {
        "validation": validation,
        "validation_identity": untouched_summary([candidate]),
        "validation_photos": len(candidate.validation or ()),
        "validation_units": count_units(candidate.validation_units),
        "validation_contaminated": candidate.contaminated is not None,
        "test": chosen.test.get(candidate.name),
        "test_of_all": chosen.test or None,
        "test_photos": chosen.test_photos,
        "test_units": chosen.test_units,
        "test_digest": chosen.test_digest,
        "ranking": chosen.ranking.order,
        "ranked_by": chosen.ranking.by,
        "lead_db": chosen.ranking.lead,
        "test_nested": chosen.ranking.nested,
    }
    meta = {
        "network": plain(dataclasses.asdict(candidate.config)),
        "data": candidate.seen.as_plain(),
        "config": options_of(candidate),
        "metrics": {} if validation is None else {name: validation[name]["mean"] for name in METRICS},
        "epoch": candidate.epoch,
        "created_with": created_with(),
    }
    notes = {
        "arch": arch_of(candidate.config),
        "model_size": size_of(candidate.config) or "other",
        "color_space": "sRGB",
        "value_range": "[0, 1]",
        "layout": "RGB, float32 (batch, 3, height, width)",
        "resolution": str(candidate.data["resolution"]),
        "fit": candidate.data["fit"],
        "weights": candidate.name,
        "networks": json.dumps(members),
        "chosen_by": chosen.reason,
        "warnings": json.dumps(chosen.warnings),
        "scores": json.dumps(scores, allow_nan=False),
        "provenance": candidate.seen.describe()["provenance"],
        "seen_count": str(len(candidate.seen.own | candidate.seen.earlier)),
        "source_sha256": json.dumps(candidate.sources),
        "toolkit": TOOLKIT,
    }
    if isinstance(network, Ensemble):
        return to_bytes(network.params(), meta, notes, ENSEMBLE_VERSION)
    return to_bytes(network.state_dict(), meta, notes, SCHEMA_VERSION)


def model_card(chosen: Chosen, output: Path, content: bytes, onnx: dict[str, Any] | None) -> str:
    """The card's Markdown. content: the bytes of `output`; onnx: what it says of that file, if there is one."""
    candidate = chosen.candidate
    arch, seen = arch_of(candidate.config), candidate.seen
    resolution, fit = candidate.data["resolution"], candidate.data["fit"]
    squares = f"squares of {resolution} x {resolution} pixels"
    return fill(
        "model_card.md",
        {"cell": lambda value: str(value).replace("|", "\\|")},
        title=title(candidate.config),
        name=output.name,
        architecture=NAMES[arch],
        config_class="NetworkConfig" if isinstance(candidate.config, NetworkConfig) else "RestormerConfig",
        parameters=sum(parameter.numel() for parameter in candidate.network.parameters()),
        networks=len(candidate.network.members) if isinstance(candidate.network, Ensemble) else 1,
        weights=WEIGHTS.get(candidate.name, candidate.name),
        epoch=candidate.epoch,
        chosen_by=chosen.reason,
        warnings=chosen.warnings,
        sources=candidate.sources,
        sha256=hashlib.sha256(content).hexdigest(),
        resolution=resolution,
        size_seen=f"a short side of {resolution} pixels" if fit == "crop" else squares,
        fit=fit,
        onnx=onnx,
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


def options_of(candidate: Candidate) -> dict[str, Any]:
    """The options of the training; average and ensemble belong to no single fold's rows."""
    if candidate.name not in WEIGHTS:
        return candidate.options
    return {name: value for name, value in candidate.options.items() if not name.endswith("_digest")}


def _score_rows(chosen: Chosen) -> list[dict[str, str]]:
    """Rows of the card's table: the exported weights first, then what they are to be compared with."""
    candidate, rows = chosen.candidate, []
    if candidate.validation is not None:
        marked = "contaminated validation" if candidate.contaminated else "validation"
        photos = _counted(marked, len(candidate.validation), count_units(candidate.validation_units))
        untouched = untouched_summary([candidate])
        assert untouched is not None  # it has validation scores
        rows += [
            (photos, candidate.name, chosen.validation[candidate.name]),
            (photos, IDENTITY, untouched),
        ]
    order = [candidate.name, IDENTITY, *(name for name in chosen.test if name not in (candidate.name, IDENTITY))]
    photos = _counted("test", chosen.test_photos, chosen.test_units)
    rows += [(photos, name, chosen.test[name]) for name in order if name in chosen.test]
    if chosen.ranking.nested is not None:
        rows.append((photos, NESTED, chosen.ranking.nested))
    return [
        {"photos": photos, "model": name}
        | {metric: cell(summary.get(metric), DIGITS[metric], "") for metric in (*METRICS, *COLOUR)}
        for photos, name, summary in rows
    ]


def _counted(what: str, photos: int, units: int | None) -> str:
    return f"{what}, {photos} ({UNRECORDED})" if units is None else f"{what}, {photos} in {units} units"


def _notes(chosen: Chosen) -> list[str]:
    """How to read the numbers."""
    if chosen.candidate.validation is None:
        notes = [f"The {chosen.candidate.name} has {UNSCORED}"]
    elif chosen.candidate.contaminated is not None:
        notes = ["Validation photos are no measure here: weights that it started from learned from them, or may have"]
    else:
        notes = [
            "Validation photos took no part in the updates, but decided which epoch was kept: their scores flatter a little"
        ]
    notes += [chosen.ranking.words(), *chosen.advice]
    if chosen.ranking.nested is not None:
        notes.append(
            "The order of the folds is of these test photos, so the first one's score flatters a little. "
            f"`{NESTED}` does not: each unit is scored by the fold that is best on the other units"
        )
    candidate = chosen.candidate
    photos, units = len(candidate.validation or ()), count_units(candidate.validation_units)
    for where, counts, scores in (
        ("Validation", (photos, units), chosen.validation.get(candidate.name)),
        ("Test", (chosen.test_photos, chosen.test_units), chosen.test.get(candidate.name)),
    ):
        if scores is not None and scores["psnr"]["ci95"] is None:
            notes.append(f"{where}: {interval_words(*counts, None)}")
    if not chosen.test:
        notes.append("Not scored on test photos")
    if ENSEMBLE in chosen.test and candidate.name != ENSEMBLE:
        notes.append("`ensemble` is the mean of all folds' outputs, which this file is not: it holds one network")
    return notes


def _onnx(name: str, sha256: str, difference: float) -> dict[str, Any]:
    sizes = ", ".join(f"{batch} x {width} x {height}" for batch, _, height, width in onnx_export.PROVED_SIZES)
    return {
        "name": name,
        "sha256": sha256,
        "opset": onnx_export.OPSET,
        "smallest": onnx_export.SMALLEST,
        "largest": onnx_export.LARGEST,
        "sizes": sizes,
        "difference": difference,
    }
