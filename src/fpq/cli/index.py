"""The commands that build and use an index: build, search, eval, tune."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import fpq
from fpq import _files, metrics, progress
from fpq._checks import Float32, Int64
from fpq.cli import files, outputs, words
from fpq.cli.report import Commands, UsageError, add_command, add_shared, facts, positive, positive_or_auto, print_json
from fpq.indexes.lsh import LSHIndex
from fpq.indexes.parts.refinement import BITS
from fpq.learning.defaults import default_lists
from fpq.metric import L2, METRICS

KINDS: dict[str, tuple[type, tuple[str, ...]]] = {}
_CODES = ("m", "nbits", "rotation", "rotation_dim", "open_indexing", "anisotropy", "keep_vectors", "refine", "seed")
KINDS["flat"] = (fpq.FlatIndex, ())
KINDS["pq"] = (fpq.PQIndex, _CODES)
KINDS["ivfpq"] = (fpq.IVFPQIndex, (*_CODES, "n_lists", "list_capacity", "local_rotations", "residual"))
KINDS["e2lsh"] = (fpq.E2LSHIndex, ("n_tables", "n_hashes", "width", "memory_limit", "seed"))
KINDS["c2lsh"] = (fpq.C2LSHIndex, ("n_hashes", "threshold", "width", "ratio", "seed"))
KINDS["pmlsh"] = (fpq.PMLSHIndex, ("n_hashes", "width", "ratio", "seed"))
BUILD_OPTIONS = {name for _, names in KINDS.values() for name in names}
SEARCH_OPTIONS = ("n_probe", "rerank", "recall", "n_candidates")
TRAIN_ROWS = 1 << 18  # training rows, unless the number of lists requires more
ROWS_PER_LIST = 64  # training rows per list
QUERY_BLOCK = 4096  # queries per call of `search`


def add_commands(commands: Commands) -> None:
    """Add the parsers of the four commands."""
    build = add_command(
        commands, "build", _build, "build an index of the vectors in a file",
        f"Build an index of the vectors in a file ({files.FORMATS}). FILE:NAME takes one array of an npz or HDF5 "
        "file. Files are read in blocks; only the index must fit into memory. INDEX is written atomically: an older "
        "index is replaced, a file of another program only with --force, VECTORS never.",
        "fpq build base.fvecs base.fpq --m 32 --rotation opq",
        "fpq build sift.hdf5:train sift.fpq --kind ivfpq --lists 1024 --keep-vectors",
        "fpq build base.npy base.fpq --kind e2lsh --json",
    )  # fmt: skip
    build.add_argument("vectors", metavar="VECTORS", help="file to read")
    build.add_argument("index", metavar="INDEX", help="file to write")
    add_kind(build)
    build.add_argument(
        "--train-rows", type=positive, metavar="N", default=argparse.SUPPRESS,
        help="pq and ivfpq: training rows (default: 262144)",
    )  # fmt: skip
    outputs.add_force(build, "INDEX")
    add_shared(build)

    search = add_command(
        commands, "search", _search, "find the nearest vectors of queries",
        "Find the nearest vectors of the queries in a file. Without -o, prints lines of query, rank, id and distance, "
        "separated by tabs. Distances are squared for l2 and similarities for ip and cosine. -o replaces the results "
        "of an earlier search, a file of another program only with --force, an input never.",
        "fpq search base.fpq queries.fvecs -k 10 -o found.npz",
        "fpq search base.fpq queries.npy -k 1 --n-probe 32 --rerank 10 --json",
    )  # fmt: skip
    search.add_argument("index", metavar="INDEX", help="file of an index, or manifest.json of shards")
    search.add_argument("queries", metavar="QUERIES", help="file of vectors")
    search.add_argument("-o", "--out", metavar="FILE", help="npz file to write: distances and ids, (nq, k) each")
    outputs.add_force(search, "-o FILE")
    _add_search(search)

    evaluate = add_command(
        commands, "eval", _eval, "measure recall and speed on queries with known neighbours",
        "Search and compare the results with the true neighbours. recall@r: the share of the r true neighbours "
        "among the first r results. R@r: the share of queries whose nearest neighbour is among the first r results. "
        "r is 1, 10, 100 and K, as far as K and the number of true neighbours allow.",
        "fpq eval sift.fpq sift.hdf5 sift.hdf5 -k 100",
        "fpq eval base.fpq queries.fvecs groundtruth.ivecs -k 10 --n-probe 64",
    )  # fmt: skip
    evaluate.add_argument("index", metavar="INDEX", help="file of an index, or manifest.json of shards")
    evaluate.add_argument("queries", metavar="QUERIES", help="file of vectors")
    evaluate.add_argument("groundtruth", metavar="GROUNDTRUTH", help="file of true neighbours (ids), nearest first")
    _add_search(evaluate)

    tune = add_command(
        commands, "tune", _tune, "find the cheapest search setting that reaches a recall",
        "Measure search settings of the index against the true neighbours, and choose the fastest setting that reaches "
        "the recall. The queries must not be in the index. By default the true neighbours come from the vectors that "
        "the index keeps. For an index built without --keep-vectors, give --base or --truth.",
        "fpq tune base.fpq queries.fvecs -k 10 --recall 0.9 --save",
        "fpq tune base.fpq queries.fvecs --base base.fvecs",
        "fpq tune sift.fpq sift.hdf5 --truth sift.hdf5 --recall 0.8",
    )  # fmt: skip
    tune.add_argument("index", metavar="INDEX", help="file of an index, or manifest.json of shards")
    tune.add_argument("queries", metavar="QUERIES", help="file of vectors")
    tune.add_argument("-k", type=positive, default=10, metavar="K", help="neighbours (default: %(default)s)")
    tune.add_argument("--recall", type=float, default=0.95, metavar="R", help="recall@K (default: %(default)s)")
    known = tune.add_mutually_exclusive_group()
    known.add_argument("--base", metavar="FILE", help="pq, ivfpq: the vectors from which the index was built")
    known.add_argument("--truth", metavar="FILE", help="pq, ivfpq: true neighbours (ids) of QUERIES, nearest first")
    tune.add_argument(
        "--save",
        action="store_true",
        help="store in INDEX, a file of one index, the setting as default, and the measurements for --recall",
    )
    add_shared(tune)


def add_kind(parser: argparse.ArgumentParser) -> None:
    """Add the options of an index that is to be built."""
    parser.add_argument("--kind", choices=list(KINDS), default="pq", help="default: %(default)s")
    parser.add_argument("--metric", choices=list(METRICS), default=L2.name, help="default: %(default)s")
    # Omitted options are suppressed, so that the defaults of the index apply.
    codes = parser.add_argument_group("pq and ivfpq", argument_default=argparse.SUPPRESS)
    codes.add_argument("--m", type=positive_or_auto, metavar="M", help="subquantizers; auto: from the dimensions")
    codes.add_argument("--nbits", type=positive, metavar="B", help="bits per subquantizer, 1 to 8")
    codes.add_argument("--rotation", choices=["pca", "opq"], help="learn a rotation first")
    codes.add_argument("--rotation-dim", type=positive, metavar="D", help="dimensions to keep after the rotation")
    codes.add_argument("--open-indexing", type=float, metavar="C", help="limit on the rows of a codeword")
    codes.add_argument("--anisotropy", type=float, metavar="W", help="ip, cosine: weight of the error along a vector")
    codes.add_argument("--keep-vectors", action="store_true", help="also store the vectors, for --rerank")
    codes.add_argument(
        "--refine", choices=BITS, help="also store scalar codes of what the product quantizer leaves over"
    )
    lists = parser.add_argument_group("ivfpq", argument_default=argparse.SUPPRESS)
    lists.add_argument("--lists", dest="n_lists", type=positive, metavar="L", help="default: 1.5 sqrt(n)")
    lists.add_argument("--list-capacity", type=float, metavar="C", help="limit on the length of lists")
    lists.add_argument("--local-rotations", action="store_true", help="learn a rotation per list (LOPQ)")
    lists.add_argument("--no-residual", dest="residual", action="store_false", help="encode vectors, not residuals")
    lsh = parser.add_argument_group("e2lsh, c2lsh and pmlsh", argument_default=argparse.SUPPRESS)
    lsh.add_argument("--tables", dest="n_tables", type=positive, metavar="T", help="e2lsh: hash tables")
    lsh.add_argument("--hashes", dest="n_hashes", type=positive, metavar="H", help="hash functions (e2lsh: per table)")
    lsh.add_argument("--width", type=float, metavar="W", help="bucket width, a distance")
    lsh.add_argument("--memory-limit", type=positive, metavar="BYTES", help="e2lsh: maximum size of the tables")
    lsh.add_argument("--threshold", type=positive, metavar="T", help="c2lsh: collisions that make a candidate")
    lsh.add_argument("--ratio", type=float, metavar="C", help="c2lsh, pmlsh: approximation ratio")
    parser.add_argument("--seed", type=int, metavar="S", default=argparse.SUPPRESS, help="default: 0")


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the class of `--kind` that the command line names; an error for options of other classes."""
    given = {name: value for name, value in vars(args).items() if name in BUILD_OPTIONS}
    refuse(set(given) - set(KINDS[args.kind][1]), f"--kind {args.kind}")
    return given


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-k", type=positive, default=10, metavar="K", help="neighbours (default: %(default)s)")
    given = parser.add_argument_group("settings of the index", argument_default=argparse.SUPPRESS)
    given.add_argument("--n-probe", type=positive, metavar="N", help="ivfpq: lists, e2lsh: buckets to probe")
    given.add_argument(
        "--n-candidates", type=positive, metavar="N", help="c2lsh, pmlsh: vectors to compare with a query"
    )
    given.add_argument("--rerank", type=positive, metavar="R", help="re-rank the R * K nearest codes by kept vectors")
    given.add_argument("--recall", type=float, metavar="R", help="pq, ivfpq: the fastest setting for R by fpq tune")
    parser.add_argument("--mmap", action="store_true", help="map the file of the index into memory")
    add_shared(parser)


def _build(args: argparse.Namespace) -> None:
    (cls, names), given = KINDS[args.kind], given_options(args)
    if hasattr(args, "train_rows") and "m" not in names:
        refuse({"train_rows"}, f"--kind {args.kind}")
    outputs.check(args.index, [files.split(args.vectors)[0]], outputs.is_saved, force=args.force)
    with files.opened(args.vectors, files.BASE) as rows, progress.call("fpq build", not args.quiet):
        if not len(rows):
            raise ValueError(f"{args.vectors}: expected at least one vector, got none")
        if args.kind == "ivfpq":
            given.setdefault("n_lists", default_lists(len(rows)))
        index = cls(**given, metric=args.metric, n_threads=args.threads)
        start = time.perf_counter()
        _fill(index, rows, args, given)
        seconds = time.perf_counter() - start
        index.save(args.index)
    report = {"index": args.index, "kind": type(index).__name__, "n": len(index), "dim": index.dim,
              "seconds": round(seconds, 3), "bytes": os.path.getsize(args.index)}  # fmt: skip
    print_json(report) if args.json else facts(report)


def _fill(index: Any, rows: files.Rows, args: argparse.Namespace, given: dict[str, Any]) -> None:
    if issubclass(KINDS[args.kind][0], LSHIndex):  # these keep all vectors, and `fit` chooses settings for all rows
        with progress.stage("read", len(rows), "rows"):
            x = rows.all()
        index.fit(x).add(x)
        return
    if args.kind != "flat":
        size = getattr(args, "train_rows", max(TRAIN_ROWS, ROWS_PER_LIST * given.get("n_lists", 0)))
        with progress.stage("read", min(size, len(rows)), "rows"):
            x = rows.sample(size, given.get("seed", 0))
        index.fit(x)
    with progress.stage("rows", len(rows), "rows") as advance:
        for block in rows.blocks():
            index.add(block)
            advance(len(block))


def _search(args: argparse.Namespace) -> None:
    if args.out is not None:
        if Path(args.out).suffix != ".npz":
            raise UsageError(f"-o {args.out}: expected a name ending in .npz")
        inputs = [files.split(args.queries)[0], *outputs.files_of_index(args.index)]
        outputs.check(args.out, inputs, outputs.is_results, force=args.force)
    index = _load(args.index, args.mmap)
    with files.opened(args.queries, files.QUERIES) as queries:
        distances, ids, seconds = _find(index, queries, args)
    if args.out is not None:
        outputs.write_results(args.out, {"distances": distances, "ids": ids})
        report = {"queries": len(ids), "k": args.k, "seconds": round(seconds, 4), "out": args.out}
        print_json(report) if args.json else facts(report)
    elif args.json:
        finite = [[d if np.isfinite(d) else None for d in row] for row in distances.tolist()]
        print_json({"k": args.k, "seconds": round(seconds, 4), "ids": ids.tolist(), "distances": finite})
    else:
        print("query\trank\tid\tdistance")
        for query, rows in enumerate(zip(ids, distances, strict=True)):
            for rank, (id_, distance) in enumerate(zip(*rows, strict=True)):
                print(f"{query}\t{rank}\t{id_}\t{distance:.6g}")


def _eval(args: argparse.Namespace) -> None:
    index = _load(args.index, args.mmap)
    with files.opened(args.groundtruth, files.TRUTH) as rows:
        truth = rows.all()
    with files.opened(args.queries, files.QUERIES) as queries:
        if len(queries) != len(truth):
            raise ValueError(f"{args.groundtruth}: expected {len(queries)} rows, one per query, got {len(truth)}")
        warm_up = argparse.Namespace(**{**vars(args), "quiet": True})  # starts threads and fills caches
        _find(index, queries, warm_up, most=256)
        _, ids, seconds = _find(index, queries, args)
    report: dict[str, Any] = {"queries": len(ids), "k": args.k, "true_neighbours": truth.shape[1],
                              "queries_per_second": round(len(ids) / seconds, 1)}  # fmt: skip
    ranks = sorted({1, 10, 100, args.k})
    for name, measure, most in ("recall", metrics.recall_at_k, truth.shape[1]), ("R", metrics.one_recall_at_k, args.k):
        for r in ranks:
            if r <= min(args.k, most):
                report[f"{name}@{r}"] = round(measure(ids, truth, r), 4)
    print_json(report) if args.json else facts(report)
    if args.k > truth.shape[1] and not args.quiet:
        print(
            f"fpq: {args.groundtruth} has {truth.shape[1]} true neighbours per query, fewer than -k {args.k}: recall@r "
            f"compares the first r results with the first r true neighbours, for r up to {truth.shape[1]}",
            file=sys.stderr,
        )


def _tune(args: argparse.Namespace) -> None:
    known = {"X": args.base, "neighbors": args.truth}
    inputs = [file for file in (args.queries, args.base, args.truth) if file is not None]
    if args.save:
        _files.refuse_input(args.index, [files.split(file)[0] for file in inputs])
    index = _tunable(args, {name for name, file in known.items() if file is not None})
    with files.opened(args.queries, files.QUERIES) as rows:
        queries = rows.all()
    with contextlib.ExitStack() as stack:
        given: dict[str, Any] = {}
        if args.base is not None:
            base = stack.enter_context(files.opened(args.base, files.BASE))
            if len(base) < len(index):
                raise ValueError(f"{args.base}: expected the {len(index)} vectors of the index, got {len(base)}")
            given["X"] = base.blocks()
        if args.truth is not None:
            given["neighbors"] = stack.enter_context(files.opened(args.truth, files.TRUTH)).all()
        with progress.call("fpq tune", not args.quiet):
            tuned = index.tune(queries, k=args.k, recall=args.recall, n_threads=args.threads, **given)
    if args.save:
        index.save(args.index)
    if args.json:
        print_json({"best": tuned.best._asdict(), "trials": [trial._asdict() for trial in tuned.trials]})
    else:
        print(tuned)


def _tunable(args: argparse.Namespace, given: set[str]) -> Any:
    """The index to tune; an error if it has no settings, or if the true neighbours are unknown."""
    if files.is_manifest(args.index) and args.save:
        raise UsageError("--save: a manifest keeps no settings: give them to the search (--n-probe and so on)")
    index = _load(args.index, mmap=False)
    if not hasattr(index, "tune"):
        raise ValueError(f"{args.index}: expected an index with settings to tune, got a {type(index).__name__}")
    if "X" not in inspect.signature(index.tune).parameters:
        if given:
            raise UsageError(f"--base, --truth: {args.index} is a {type(index).__name__}, which keeps its vectors")
    elif not getattr(index, "keep_vectors", True) and not given:
        raise UsageError(
            f"{args.index} keeps no vectors: give the vectors from which the index was built (--base FILE) or the true "
            "neighbours of the queries (--truth FILE), or build the index with --keep-vectors"
        )
    return index


def _load(file: str, mmap: bool) -> Any:
    index = fpq.ShardedIndex(file) if files.is_manifest(file) else fpq.load(file, mmap=mmap)
    if not hasattr(index, "search"):
        raise ValueError(f"{file}: expected an index, got a {type(index).__name__}")
    if isinstance(index, fpq.MultiVectorIndex):
        raise ValueError(f"{file}: expected an index of vectors, got a MultiVectorIndex: search documents in Python")
    return index


def _find(
    index: Any, queries: files.Rows, args: argparse.Namespace, most: int | None = None
) -> tuple[Float32, Int64, float]:
    """Distances and ids of the first `most` queries (default: all), and the seconds of the search."""
    given = {name: getattr(args, name) for name in SEARCH_OPTIONS if hasattr(args, name)}
    refuse(set(given) - set(inspect.signature(index.search).parameters), type(index).__name__)
    if "rerank" in given and not (getattr(index, "keep_vectors", True) or getattr(index, "refine", None)):
        raise UsageError(f"--rerank: {args.index} keeps no vectors; build the index with --keep-vectors or --refine")
    nq = len(queries) if most is None else min(most, len(queries))
    distances, ids = np.empty((nq, args.k), np.float32), np.empty((nq, args.k), np.int64)
    seconds, step = 0.0, max(1, min(QUERY_BLOCK, (1 << 24) // args.k))
    with progress.call("fpq", not args.quiet), progress.stage("search", nq, "queries") as advance:
        for first in range(0, nq, step):
            rows = slice(first, min(nq, first + step))
            block = queries.read(rows.start, rows.stop)
            start = time.perf_counter()
            distances[rows], ids[rows] = index.search(block, args.k, n_threads=args.threads, **given)
            seconds += time.perf_counter() - start
            advance(len(block))
    return distances, ids, seconds


def refuse(options: set[str], of: str) -> None:
    """Raise an error that names these options, if there are any."""
    if options:
        raise UsageError(f"{', '.join(map(words.flag, sorted(options)))}: not an option of {of}")
