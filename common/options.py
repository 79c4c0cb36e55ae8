"""A dataclass <-> command-line flags, so that an option exists once; and nested dictionaries of options. Needs no torch.

What a parser refuses is told in two lines: what is wrong, and what was meant or where to look; not in a list of all flags.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")
SUGGESTIONS = 3
OTHER_DASHES = ("\u2013", "\u2014", "\u2212")  # what word processors and web pages make of --


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        # "(default: None)" tells a user nothing: the help text says what happens without the flag.
        return action.help if action.default is None else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Of one script. given: the options that the command line names, as attributes of what `parse_args` returns."""

    given: frozenset[str] = frozenset()

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does, but a mistyped flag is told before anything that it may have caused, such as a missing one."""
        words = list(sys.argv[1:] if args is None else args)
        flags = [word.split("=")[0] for word in words[: words.index("--") if "--" in words else None]]
        known = self._option_string_actions
        for flag in flags:
            meant = f"--{flag[1:]}" if flag.startswith(OTHER_DASHES) else None
            if meant in known or (flag.startswith("--") and flag not in known):
                self.error(f"unrecognized arguments: {flag}")
        actions = [known[flag] for flag in flags if flag in known]
        self.given = frozenset(action.dest for action in actions)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2: `message`, and in a second line what was probably meant."""
        kind, _, rest = message.partition(": ")
        if kind == "unrecognized arguments":
            second = self._about_flag(rest.split(" ")[0])
        elif kind.startswith("argument --"):
            second = self._about_value(kind.removeprefix("argument ").split("/")[0].split(" ")[0], rest)
        else:
            second = ""
        self.exit(2, f"error: {message}\n{second}{' ' * bool(second)}All options: {self.prog} --help\n")

    def _about_flag(self, word: str) -> str:
        wanted = word.strip("-" + "".join(OTHER_DASHES)).lower().replace("-", "_")
        flags = {flag.removeprefix("--"): action for flag, action in self._option_string_actions.items()}
        flags = {flag: action for flag, action in flags.items() if action.help != argparse.SUPPRESS and flag != "-h"}
        phrase = wanted.replace("_", " ")
        near = _nearest(wanted, flags) or [
            flag
            for flag, action in flags.items()
            if flag.startswith(wanted)
            or (len(wanted) > 2 and wanted in flag)
            or (" " in phrase and phrase in (action.help or ""))
        ]
        if not word.startswith(("-", *OTHER_DASHES)) or not near:
            return "" if word.startswith("-") else f"No option takes {word!r} as its value."
        return _did_you_mean(f"--{flag}" for flag in near[:SUGGESTIONS])

    def _about_value(self, flag: str, fault: str) -> str:
        action = self._option_string_actions[flag]
        found = fault.partition("invalid choice: '")[2].split("'")[0]
        near = difflib.get_close_matches(found.lower(), map(str, action.choices or ()), n=1)
        if near:
            return _did_you_mean(f"{flag} {value}" for value in near)
        return "" if not action.help else f"{flag}: {action.help.replace('%%', '%')}."


def _nearest(word: str, known: Iterable[str]) -> list[str]:
    """The nearest of the `known` words, and others that are about as near."""
    near = difflib.get_close_matches(word, list(known), n=SUGGESTIONS)
    likeness = [difflib.SequenceMatcher(None, each, word).ratio() for each in near]
    return [each for each, ratio in zip(near, likeness, strict=True) if ratio > likeness[0] - 0.05]


def _did_you_mean(words: Iterable[str]) -> str:
    return f"Did you mean {' or '.join(words)}?"


def option(
    default: Any, help_text: str, changes_result: bool = True, alone: Any = None, needs: str | None = None
) -> Any:
    """A field of a config: its default, its line in --help, and whether another value makes another result.

    A rerun of a run that has begun may change an option with `changes_result=False`. alone: what the flag without a value means;
    None: it needs one. needs: another field of the config, without which this one has no effect.
    """
    metadata = {"help": help_text, "changes_result": changes_result, "alone": alone, "needs": needs}
    return dataclasses.field(default=default, metadata=metadata)


def make_parser(description: str) -> Parser:
    """A parser for one script: no abbreviated flags (a new flag must not change what an old command means)."""
    return Parser(description=description, allow_abbrev=False, formatter_class=_HelpFormatter)


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


def from_args(config_class: type[Config], args: argparse.Namespace, parser: Parser) -> Config:
    """Build the dataclass from parsed flags; a ValueError of its __post_init__ becomes a usage error (exit 2), and so does an
    option that was given without the one that it needs."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(config_class)}
    for name, needs in idle_options(config_class, values):
        if name in parser.given:
            parser.error(f"--{name} has no effect without --{needs}: give both, or leave it out")
    try:
        return config_class(**values)
    except ValueError as error:
        parser.error(str(error))


def idle_options(config_class: type, values: dict[str, Any]) -> list[tuple[str, str]]:
    """The options that have no effect with these values of the config's fields, each with the one that it needs."""
    needs = {field.name: field.metadata["needs"] for field in dataclasses.fields(config_class)}
    return [(name, other) for name, other in needs.items() if other is not None and not values.get(other)]


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
