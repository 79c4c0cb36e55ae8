"""The chosen candidate, its scores and what it has seen -> one .safetensors file, and a model card beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from darkir.architectures import arch_of, size_of
from darkir.engine import onnx_export
from darkir.engine.candidate_scores import Summary, untouched_summary
from darkir.engine.choosing import Chosen
from darkir.engine.metrics import METRICS
from darkir.engine.model_card import TOOLKIT, model_card, options_of
from darkir.engine.runlog import RunLog
from darkir.engine.runtime import created_with
from darkir.engine.trees import plain
from darkir.safetensors_file import to_bytes
from data.files import write_bytes, write_text

COLOR_SPACE, VALUE_RANGE = "sRGB", "[0, 1]"
LAYOUT = "RGB, float32 (batch, 3, height, width)"


def write_artefact(chosen: Chosen, output: Path, card: Path, onnx: Path | None, log: RunLog) -> None:
    """Write `onnx` when that is wanted, the `card`, and `output` last, so that it never stands without its own card.

    Raises RunFailed, with nothing written, when the ONNX file would differ from PyTorch.
    """
    content, difference = artefact_bytes(chosen), None
    if onnx is not None:
        difference = onnx_export.write_onnx(chosen.candidate.network, onnx)
        log(f"{onnx}: differs from PyTorch by at most {difference:.1e} in onnxruntime")
    output.unlink(missing_ok=True)  # with --overwrite: the old model must not stand beside the new card
    write_text(card, model_card(chosen, output, content, None if onnx is None else (onnx, difference)))
    write_bytes(output, content)
    seen = len(json.dumps(chosen.candidate.seen.as_plain()))
    log(f"{output}: {len(content) / 1e6:.1f} MB, {seen / 1e3:.0f} KB of them digests of the photos seen; card: {card}")


def artefact_bytes(chosen: Chosen) -> bytes:
    """The content of the .safetensors file."""
    candidate = chosen.candidate
    meta = {
        "network": plain(dataclasses.asdict(candidate.config)),
        "data": candidate.seen.as_plain(),
        "config": options_of(candidate),
        "metrics": _means(chosen.validation.get(candidate.name)),
        "epoch": candidate.epoch,
        "created_with": created_with(),
    }
    notes = {
        "arch": arch_of(candidate.config),
        "model_size": size_of(candidate.config) or "other",
        "color_space": COLOR_SPACE,
        "value_range": VALUE_RANGE,
        "layout": LAYOUT,
        "resolution": str(candidate.data["resolution"]),
        "fit": candidate.data["fit"],
        "weights": candidate.name,
        "chosen_by": chosen.reason,
        "warnings": json.dumps(chosen.warnings),
        "scores": json.dumps(_scores(chosen), allow_nan=False),
        "provenance": candidate.seen.describe()["provenance"],
        "seen_count": str(len(candidate.seen.own | candidate.seen.earlier)),
        "source_sha256": json.dumps(candidate.sources),
        "toolkit": TOOLKIT,
    }
    return to_bytes(candidate.network.state_dict(), meta, notes)


def _means(summary: Summary | None) -> dict[str, float]:
    return {} if summary is None else {name: summary[name]["mean"] for name in METRICS}


def _scores(chosen: Chosen) -> dict[str, Any]:
    """All that was measured, with what is missing as null."""
    candidate = chosen.candidate
    return {
        "validation": chosen.validation.get(candidate.name),
        "validation_identity": untouched_summary([candidate]),
        "validation_photos": len(candidate.validation or ()),
        "test": chosen.test.get(candidate.name),
        "test_of_all": chosen.test or None,
        "test_photos": chosen.test_photos,
        "test_digest": chosen.test_digest,
    }
