"""The ``fpq`` command. A subcommand is a function that adds its parser and names what to run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fpq import __version__, _format, cpu_info, demo, load, storage

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EXAMPLES = """\
examples:
  fpq demo                            handwritten digits: a table and fpq-demo.png
  fpq demo --data mnist/ --threads 4  with MNIST files of your own, on four threads
  fpq demo --json > figures.json      the same figures for a program
  fpq info                            what fpq runs on
  fpq info points.fpq --verify        what is in a file, and whether it is whole
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit code: 0, 1 (failed), 2 (usage), 130 (Ctrl-C)."""
    parser = argparse.ArgumentParser(
        prog="fpq",
        description="Fast approximate nearest-neighbour search by product quantization.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fpq {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add_command in (_add_demo, _add_info):
        add_command(commands)
    args = parser.parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # What is left in the buffer has no reader: let the interpreter flush it to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ImportError, MemoryError, OSError, ValueError) as error:
        return _fail(str(error) or type(error).__name__, 1)
    return 0


def _fail(message: str, code: int) -> int:
    print("fpq:", " ".join(message.split()), file=sys.stderr)
    return code


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="find handwritten digits (MNIST): a table and a picture",
        description="Compare exact search, plain PQ and FPQ on MNIST in a table and a picture. "
        "recall@k: the share of queries whose true nearest image is among the first k found. "
        "1-NN, 5-NN: the share of digits named right by the nearest, by a vote of the 5 nearest.",
    )
    parser.add_argument("--data", metavar="DIR", help="folder with the MNIST files (default: find or download them)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        default="fpq-demo.png",
        help="picture to write (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        metavar="N",
        type=_positive,
        help="threads to use (default: what the environment allows)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> None:
    demo.run(args.data, args.out, args.threads, as_json=args.json)


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser(
        "info",
        help="show the version and what fpq uses of this machine, or what is in a file",
        description="Show the version and what fpq uses of this machine, or what is in a file that fpq has written.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="file to look into")
    parser.add_argument("--verify", action="store_true", help="read all of FILE and check it as loading does")
    parser.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> None:
    if args.file is not None:
        _file_info(args.file, args.verify)
        return
    _print_facts({"version": __version__, **cpu_info()})


def _file_info(file: str, verify: bool) -> None:
    layout = storage.describe(file)
    if verify:
        load(file, mmap=True).verify()
    facts: dict[str, object] = {"kind": layout.kind, "format": _format.VERSION}
    for name, value in layout.params.items():
        if isinstance(value, dict):
            facts.update({f"{name}.{inner}": json.dumps(of) for inner, of in value.items()})
        else:
            facts[name] = json.dumps(value)
    for name, extent in sorted(layout.arrays.items(), key=lambda item: item[1].start):
        facts[name] = f"{extent.dtype} {'x'.join(map(str, extent.shape))}, {extent.nbytes} bytes"
    facts["checked"] = "all data" if verify else "the header only (--verify checks the data)"
    _print_facts(facts)


def _print_facts(facts: dict[str, object]) -> None:
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {_readable(value)}")


def _readable(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
