"""Parsers with examples, progress and output, shared by the commands."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

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


def positive(text: str) -> int:
    """An integer above 0 from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer above 0, got {number}")
    return number


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


class Progress:
    """Progress on standard error: bars on a terminal, plain lines elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    @contextmanager
    def bar(self, name: str, total: int) -> Iterator[Callable[[int], Any]]:
        """A context whose value is a function that adds finished rows to the bar."""
        start = time.perf_counter()
        with tqdm(
            total=total, desc=name, unit=" rows", unit_scale=True, disable=self.quiet or None, leave=False
        ) as bar:
            yield bar.update
        self._line(f"{name} {total:,} rows", start)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A context for a step without a bar."""
        start = time.perf_counter()
        if sys.stderr.isatty() and not self.quiet:
            print(f"{name} ...", end="\r", file=sys.stderr, flush=True)
        yield
        self._line(name, start)

    def _line(self, name: str, start: float) -> None:
        if not self.quiet:
            print(f"{name}: {time.perf_counter() - start:.2f} s", file=sys.stderr)
