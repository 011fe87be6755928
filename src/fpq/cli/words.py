"""Errors of the library in the words of the command line: options and files instead of Python's names."""

from __future__ import annotations

import argparse
import re

# The file of an argument of the library: the first of these that the command was given.
FILES = {"X": ("base", "vectors"), "Q": ("queries",), "neighbors": ("truth",), "truth": ("groundtruth",)}
FLAGS = {"k": "-k", "n_lists": "--lists", "n_tables": "--tables", "n_hashes": "--hashes", "residual": "--no-residual"}
NO_FLAGS = ("base", "file", "groundtruth", "index", "queries", "run", "truth", "vectors")


def flag(name: str) -> str:
    """The option for an argument of the library."""
    return FLAGS.get(name, "--" + name.replace("_", "-"))


def translated(message: str, args: argparse.Namespace) -> str:
    """The message of an error with the files and options of a command."""
    given = {name: value for name, value in vars(args).items() if value is not None}
    argument, colon, rest = message.partition(": ")
    file = _file(argument, given)
    if file is not None:
        message = f"{file}{colon}{rest}"
    elif argument in given and argument not in NO_FLAGS:
        message = f"{flag(argument)}{colon}{rest}"
    rows = _file("X", given)
    if rows is not None:
        message = re.sub(r"\bof X\b", lambda _: f"of {rows}", message)
    return message


def _file(argument: str, given: dict[str, object]) -> str | None:
    return next((str(given[name]) for name in FILES.get(argument, ()) if name in given), None)
