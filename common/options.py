"""A dataclass <-> command-line flags, so that an option exists once; and nested dictionaries of options. Needs no torch."""

from __future__ import annotations

import argparse
import dataclasses
import math
import types
import typing
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        # "(default: None)" tells a user nothing: the help text says what happens without the flag.
        return action.help if action.default is None else super()._get_help_string(action)


def option(default: Any, help_text: str, changes_result: bool = True, alone: Any = None) -> Any:
    """A field of a config: its default, its line in --help, and whether another value makes another result.

    A rerun of a run that has begun may change an option with `changes_result=False`. alone: what the flag without a value means;
    None: it needs one.
    """
    metadata = {"help": help_text, "changes_result": changes_result, "alone": alone}
    return dataclasses.field(default=default, metadata=metadata)


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser for one script: no abbreviated flags (a new flag must not change what an old command means)."""
    return argparse.ArgumentParser(description=description, allow_abbrev=False, formatter_class=_HelpFormatter)


def add_options(parser: argparse.ArgumentParser, config_class: type, title: str) -> None:
    """Add one flag for each field of the dataclass `config_class` to `parser`, in a group with `title`."""
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        hint = hints[field.name]
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        options: dict[str, Any] = {"default": field.default, "help": field.metadata["help"].replace("%", "%%")}
        if hint is bool:
            options["action"] = "store_true"
        elif typing.get_origin(hint) is typing.Literal:
            options["choices"] = typing.get_args(hint)
        else:
            options["type"] = finite_float if hint is float else hint
        if field.metadata["alone"] is not None:
            options |= {"nargs": "?", "const": field.metadata["alone"]}
        group.add_argument(f"--{field.name}", **options)


def from_args(config_class: type[Config], args: argparse.Namespace, parser: argparse.ArgumentParser) -> Config:
    """Build the dataclass from parsed flags; a ValueError of its __post_init__ becomes a usage error (exit 2)."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(config_class)}
    try:
        return config_class(**values)
    except ValueError as error:
        parser.error(str(error))


def require(condition: bool, message: str) -> None:
    """For a config's __post_init__: ValueError naming the flag unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def finite_float(text: str) -> float:
    """A float that is neither NaN nor infinite: argparse's own float lets both through."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


finite_float.__name__ = "number"  # argparse names the type in its message


def plain(value: Any) -> Any:
    """Tuples in nested options -> lists, so that a value equals itself after a round trip through a file."""
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
