"""Nested dictionaries of options, as they stand in checkpoints, summaries and reports. Needs no torch."""

from __future__ import annotations

from typing import Any


def plain(value: Any) -> Any:
    """Tuples -> lists, so that a value equals itself after a round trip through a file."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options -> {"data.resolution": 384, ...}."""
    pairs: dict[str, Any] = {}
    for name, value in tree.items():
        pairs.update(flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value})
    return pairs
