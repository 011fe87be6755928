"""The command that says what an index takes before it is built: estimate."""

from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from typing import Any

import numpy as np

import fpq
from fpq._checks import KERNEL_TYPES
from fpq.cli import index
from fpq.cli.report import Commands, add_command, facts, positive, print_json
from fpq.estimation import readable_bytes, readable_seconds

DTYPES = [np.dtype(each).name for each in KERNEL_TYPES]


def add_commands(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands, "estimate", _estimate, "say what an index takes before it is built: memory, disk, time",
        "Estimate the bytes of an index in memory and on disk, the largest memory while it is built, and the time of "
        "training and adding, for vectors that are in memory. No vectors are read. The options of the index are those "
        "of fpq build.",
        "fpq estimate 1000000x128 --kind ivfpq --m 25 --keep-vectors --dtype uint8",
        "fpq estimate 40000x384 --kind pq --m auto --metric cosine --json",
    )  # fmt: skip
    parser.add_argument("shape", metavar="NxD", type=_shape, help="number of vectors and of dimensions")
    index.add_kind(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the vectors (default: %(default)s)")
    parser.add_argument("--ids", action="store_true", help="the vectors get ids of your own, not row numbers")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: all that the environment allows")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _shape(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9_,]+)x([0-9]+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"expected NxD, such as 1000000x128, got {text}")
    return positive(found[1].replace(",", "")), positive(found[2])


def _estimate(args: argparse.Namespace) -> None:
    given = index.given_options(args)
    if args.kind == "ivfpq":
        given.setdefault("n_lists", None)
    n, d = args.shape
    made: Any = index.KINDS[args.kind][0](**given, metric=args.metric, n_threads=args.threads)
    found = fpq.estimate(n, d, made, dtype=args.dtype, ids=args.ids)
    report = {"kind": type(made).__name__, "n": n, "dim": d}
    if args.json:
        print_json({**report, **asdict(found)})
        return
    facts({
        **report, "memory": f"{readable_bytes(found.nbytes)}, {found.ratio:.3g} x the vectors as float32",
        "file": readable_bytes(found.file_nbytes), "peak": f"{readable_bytes(found.peak_nbytes)} while it is built",
        "build": readable_seconds(found.build_seconds),
    })  # fmt: skip
