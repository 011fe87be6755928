"""The ``fpq`` command. Each subcommand is a function that adds its parser with the function to run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fpq import ShardedIndex, __version__, _bfloat16, _format, cpu_info, datasets, demo, load, storage
from fpq.cli import collection, estimate, files, index, outputs, words
from fpq.cli.report import Commands, UsageError, facts, positive, print_json
from fpq.sharding import manifest

EXAMPLES = """\
examples:
  fpq demo                            handwritten digits: a table and fpq-demo.png
  fpq demo --data mnist/ --threads 4  the same with your own MNIST files, on four threads
  fpq demo --json > figures.json      the same figures as JSON
  fpq build base.fvecs base.fpq       an index of the vectors in a file
  fpq search base.fpq queries.fvecs   the 10 nearest vectors of each query
  fpq estimate 1000000x128 --m 32     memory, disk and time of an index before it is built
  fpq collection create docs d.jsonl  a collection of rows with keys, vectors and metadata
  fpq info                            version, instruction set, threads
  fpq info points.fpq --verify        the content of a file, checked for damage
fpq COMMAND --help describes each command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 1 (error), 2 (usage), 130 (Ctrl-C)."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="fpq",
        description="Fast approximate nearest-neighbour search by product quantization.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fpq {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    index.add_commands(commands)
    estimate.add_commands(commands)
    collection.add_commands(commands)
    _add_info(commands)
    if not argv:
        parser.print_help(sys.stderr)
        return 2
    args = parser.parse_args(argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _fail(["interrupted"], 130)
    except BrokenPipeError:
        # The rest of the buffer has no reader: the interpreter flushes it to the null device at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        return _fail([str(error)], 2)
    except ConnectionError as error:  # its lines say what can be done without a network
        return _fail(str(error).splitlines(), 1)
    except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
        message = words.translated(str(error), args) or type(error).__name__
        return _fail([" ".join(message.split())], 1)
    return 0


def _fail(lines: Sequence[str], code: int) -> int:
    print("fpq:", "\n".join(lines), file=sys.stderr)
    return code


def _add_demo(commands: Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="search handwritten digits (MNIST): a table and a picture",
        description="Compare exact search, plain PQ and FPQ on MNIST in a table and a picture. "
        "recall@k: the share of the k nearest images among the k found. "
        "1-NN, 5-NN: the share of digits classified correctly by the nearest image, by a vote of the 5 nearest.",
    )
    parser.add_argument("--data", metavar="DIR", help="folder with the MNIST files (default: find or download them)")
    parser.add_argument("--out", metavar="FILE", default="fpq-demo.png", help="picture to write (default: %(default)s)")
    parser.add_argument(
        "--threads", metavar="N", type=positive, help="threads to use (default: all that the environment allows)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    outputs.add_force(parser, "--out")
    parser.set_defaults(run=_demo)


def _demo(args: argparse.Namespace) -> None:
    folders = [path / "mnist" for path in datasets._search_path()] if args.data is None else [Path(args.data)]
    files = [folder / name for folder in folders for name in (*demo.NPY_FILES, *demo.IDX_FILES)]
    outputs.check(args.out, files, outputs.is_picture, force=args.force)
    demo.run(args.data, args.out, args.threads, as_json=args.json)


def _add_info(commands: Commands) -> None:
    parser = commands.add_parser(
        "info",
        help="show the version, instruction set and threads, or the content of a file",
        description="Without FILE, show the version of fpq and the instruction set and threads in use. With FILE, show "
        "the content of a file that fpq has saved, or of a manifest of shards.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="file to describe")
    parser.add_argument("--verify", action="store_true", help="read all data of FILE, or of its shards, and check them")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> None:
    if args.file is not None:
        _file_info(args)
        return
    _print(args.json, {"version": __version__, **cpu_info()})


def _file_info(args: argparse.Namespace) -> None:
    file, verify = args.file, args.verify
    if files.is_manifest(file):
        _print(args.json, _manifest_info(file, verify))
        return
    layout = storage.describe(file)
    if verify:
        load(file, mmap=True).verify()
    found: dict[str, object] = {"kind": layout.kind, "format": _format.VERSION}
    for name, value in layout.params.items():
        if isinstance(value, dict):
            found.update({f"{name}.{inner}": json.dumps(of) for inner, of in value.items()})
        else:
            found[name] = json.dumps(value)
    for name, extent in sorted(layout.arrays.items(), key=lambda item: item[1].start):
        found[name] = f"{_bfloat16.name_of(extent.dtype)} {'x'.join(map(str, extent.shape))}, {extent.nbytes} bytes"
    found["checked"] = "all data" if verify else "the header only (--verify checks the data)"
    _print(args.json, found)


def _manifest_info(file: str, verify: bool) -> dict[str, object]:
    content = manifest.read(file)
    if verify:
        ShardedIndex(file).verify()
    return {
        "kind": f"manifest of shards of {content.kind}",
        "format": manifest.VERSION,
        "metric": content.metric,
        "dim": content.dim,
        "n": sum(shard.n for shard in content.shards),
        "shards": len(content.shards),
        "files": [shard.file for shard in content.shards],
        "checked": "all data of all shards" if verify else "the manifest only (--verify checks the shards)",
    }


def _print(as_json: bool, found: dict[str, object]) -> None:
    print_json(found) if as_json else facts(found)
