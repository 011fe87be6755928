"""What the commands share: parsers with examples, progress, what is printed."""

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
    """Options that do not go together: exit code 2."""


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], summary: str, about: str, *examples: str
) -> argparse.ArgumentParser:
    """A parser for the command `name` that names what to run and ends with examples."""
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
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def print_json(value: Any) -> None:
    """One line of JSON."""
    print(json.dumps(value, default=str, allow_nan=False))


def facts(values: dict[str, Any]) -> None:
    """One line a fact, in two columns."""
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
    """Bars on a terminal, plain lines elsewhere, both on standard error."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], Any]]:
        """Gives a function to call with the number of rows done."""
        start = time.perf_counter()
        with tqdm(
            total=total, desc=what, unit=" rows", unit_scale=True, disable=self.quiet or None, leave=False
        ) as bar:
            yield bar.update
        self._line(f"{what} {total:,} rows", start)

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """A step that cannot tell how far it is."""
        start = time.perf_counter()
        if sys.stderr.isatty() and not self.quiet:
            print(f"{what} ...", end="\r", file=sys.stderr, flush=True)
        yield
        self._line(what, start)

    def _line(self, what: str, start: float) -> None:
        if not self.quiet:
            print(f"{what}: {time.perf_counter() - start:.2f} s", file=sys.stderr)
