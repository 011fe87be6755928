"""Parsers with examples, and output, shared by the commands."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = Any


class UsageError(ValueError):
    """Options that cannot be combined: exit code 2."""


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], summary: str, about: str, *examples: str
) -> argparse.ArgumentParser:
    """Add the parser of the command `name`, with `run` as its function and examples at the end of its help."""
    parser = commands.add_parser(
        name, help=summary, description=textwrap.fill(about, 100), formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n" + "".join(f"  {example}\n" for example in examples),
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options that most commands have."""
    parser.add_argument("--threads", type=positive, metavar="N", help="default: all that the environment allows")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def positive(text: str) -> int:
    """An integer above 0 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer above 0, got {number}")
    return number


def positive_or_auto(text: str) -> int | None:
    """An integer above 0 from the command line, or None for "auto"."""
    return None if text == "auto" else positive(text)


def print_json(value: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(value, default=str, allow_nan=False))


def facts(values: dict[str, Any]) -> None:
    """Print one line per value, in two columns."""
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name:<{width}}  {_readable(value)}")


def _readable(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
