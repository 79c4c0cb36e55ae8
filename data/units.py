"""Rows with digests -> independent units: photos that belong together count as one, in every interval and every hold-out.

A split writes the unit of each row: what it kept together (one group, a shared image, near-duplicates). Rows without it, of
older splits and of JSONLs made by hand, form units by group and shared images alone.
"""

from __future__ import annotations

from common.errors import InputError
from data.manifest import Pair
from data.splits.split import components_of, name_units, recorded_unit

FEWEST_UNITS = 5  # for an interval: bench/coverage.py
WRITTEN = {"src", "tar", "unit", "width", "height", "decoder"}


def unit_names(pairs: list[Pair]) -> list[str]:
    """The unit of each pair, by name: the least src of it. Pairs need digests."""
    return name_units(pairs, components_of(pairs, [], recorded=True))


def describe_units(pairs: list[Pair], names: list[str], group_key: str) -> str:
    """How many units there are, and what they were told by: one line for the log."""
    without = sum(recorded_unit(pair) is None for pair in pairs)
    count = f"{len(set(names))} independent units of {len(pairs)} photos"
    if not without:
        return f"{count}, as the split recorded them"
    grouped = any(pair.group is not None for pair in pairs)
    by = f"by {group_key!r} and shared images" if grouped else f"by shared images, as no row has {group_key!r}"
    which = "the rows have" if without == len(pairs) else f"{without} rows have"
    return f"{count}, {by}: {which} no 'unit', which create_data_splits.py writes"


def refuse_unknown_group_key(group_key: str, pairs: list[Pair]) -> None:
    """InputError when none of `pairs`, which were read with this --group_key, has that field."""
    if all(pair.group is None for pair in pairs):
        fields = {name for pair in pairs for name in pair.row} - WRITTEN
        theirs = sorted(name for name in fields if not name.startswith(("src_", "tar_")))
        raise InputError(f"--group_key {group_key}: no row has that field; fields: {', '.join(theirs) or 'none'}")
