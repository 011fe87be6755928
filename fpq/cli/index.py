"""The commands that make and use an index: build, search, eval, tune."""

from __future__ import annotations

import argparse
import inspect
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import fpq
from fpq import metrics, storage
from fpq._checks import Float32, Int64
from fpq.cli import files, outputs
from fpq.cli.report import Commands, Progress, UsageError, add_command, facts, positive, print_json
from fpq.metric import L2, METRICS

KINDS: dict[str, tuple[type, tuple[str, ...]]] = {}
_CODES = ("m", "nbits", "rotation", "rotation_dim", "open_indexing", "keep_vectors", "seed")
KINDS["flat"] = (fpq.FlatIndex, ())
KINDS["pq"] = (fpq.PQIndex, _CODES)
KINDS["ivfpq"] = (fpq.IVFPQIndex, (*_CODES, "n_lists", "list_capacity", "residual"))
KINDS["e2lsh"] = (fpq.E2LSHIndex, ("n_tables", "n_hashes", "width", "memory_limit", "seed"))
KINDS["c2lsh"] = (fpq.C2LSHIndex, ("n_hashes", "threshold", "width", "ratio", "seed"))
BUILD_OPTIONS = {name for _, names in KINDS.values() for name in names}
SEARCH_OPTIONS = ("n_probe", "rerank", "n_candidates")
TRAIN_ROWS = 1 << 18  # that codebooks are learned from, unless more lists need more
ROWS_PER_LIST = 64
QUERY_BLOCK = 4096


def add_commands(commands: Commands) -> None:
    """Add the parsers of the four commands."""
    build = add_command(
        commands, "build", _build, "make an index of the vectors in a file",
        f"Make an index of the vectors in a file ({files.FORMATS}) and write it. FILE:NAME takes one array of an "
        "npz or HDF5 file. Files are read in blocks; what must fit into memory is the index. INDEX is written whole or "
        "not at all; an older index there is replaced, another file only with --force, VECTORS never.",
        "fpq build base.fvecs base.fpq --m 32 --rotation opq",
        "fpq build sift.hdf5:train sift.fpq --kind ivfpq --lists 1024 --keep-vectors",
        "fpq build base.npy base.fpq --kind e2lsh --json",
    )  # fmt: skip
    build.add_argument("vectors", metavar="VECTORS", help="file to read")
    build.add_argument("index", metavar="INDEX", help="file to write")
    build.add_argument("--kind", choices=list(KINDS), default="pq", help="default: %(default)s")
    build.add_argument("--metric", choices=list(METRICS), default=L2.name, help="default: %(default)s")
    # An option that is not given is left out, so that the index's own default holds.
    codes = build.add_argument_group("pq and ivfpq", argument_default=argparse.SUPPRESS)
    codes.add_argument("--m", type=positive, metavar="M", help="subquantizers")
    codes.add_argument("--nbits", type=positive, metavar="B", help="bits of a sub-code, 1 to 8")
    codes.add_argument("--rotation", choices=["pca", "opq"], help="learn a rotation first")
    codes.add_argument("--rotation-dim", type=positive, metavar="D", help="dimensions of it to keep")
    codes.add_argument("--open-indexing", type=float, metavar="C", help="limit on the rows of a code")
    codes.add_argument("--keep-vectors", action="store_true", help="store the vectors too, for --rerank")
    codes.add_argument("--train-rows", type=positive, metavar="N", help="rows to learn from (default: 262144)")
    lists = build.add_argument_group("ivfpq", argument_default=argparse.SUPPRESS)
    lists.add_argument("--lists", dest="n_lists", type=positive, metavar="L", help="default: 4 sqrt(n)")
    lists.add_argument("--list-capacity", type=float, metavar="C", help="limit on the length of lists")
    lists.add_argument("--no-residual", dest="residual", action="store_false", help="code vectors, not residuals")
    lsh = build.add_argument_group("e2lsh and c2lsh", argument_default=argparse.SUPPRESS)
    lsh.add_argument("--tables", dest="n_tables", type=positive, metavar="T", help="e2lsh: hash tables")
    lsh.add_argument("--hashes", dest="n_hashes", type=positive, metavar="H", help="hash functions (of a table)")
    lsh.add_argument("--width", type=float, metavar="W", help="bucket width, a distance")
    lsh.add_argument("--memory-limit", type=positive, metavar="BYTES", help="e2lsh: of the tables")
    lsh.add_argument("--threshold", type=positive, metavar="T", help="c2lsh: collisions of a candidate")
    lsh.add_argument("--ratio", type=float, metavar="C", help="c2lsh: growth of the windows")
    build.add_argument("--seed", type=int, metavar="S", default=argparse.SUPPRESS, help="default: 0")
    outputs.add_force(build, "a file INDEX")
    _add_shared(build)

    search = add_command(
        commands, "search", _search, "find the nearest vectors of queries",
        "Find the nearest vectors of the queries in a file. Without -o lines of query, rank, id and distance, "
        "separated by tabs, are printed. Distances are squared for l2, similarities for ip and cosine. -o replaces "
        "what an earlier search wrote, another file only with --force, and never a file that is read.",
        "fpq search base.fpq queries.fvecs -k 10 -o found.npz",
        "fpq search base.fpq queries.npy -k 1 --n-probe 32 --rerank 10 --json",
    )  # fmt: skip
    search.add_argument("index", metavar="INDEX", help="file that fpq has written, or manifest.json of shards")
    search.add_argument("queries", metavar="QUERIES", help="file of vectors")
    search.add_argument("-o", "--out", metavar="FILE", help="npz file to write: distances and ids, (nq, k) each")
    outputs.add_force(search, "a file -o")
    _add_search(search)

    judge = add_command(
        commands, "eval", _eval, "measure recall and speed on queries with known neighbours",
        "Search for the queries in a file and compare with their true neighbours. recall@r: share of queries whose "
        "true nearest is among the first r found; K-recall@K: share of the K true nearest among the K found.",
        "fpq eval sift.fpq sift.hdf5 sift.hdf5 -k 100",
        "fpq eval base.fpq queries.fvecs groundtruth.ivecs -k 10 --n-probe 64",
    )  # fmt: skip
    judge.add_argument("index", metavar="INDEX", help="file that fpq has written, or manifest.json of shards")
    judge.add_argument("queries", metavar="QUERIES", help="file of vectors")
    judge.add_argument("groundtruth", metavar="GROUNDTRUTH", help="file of their true neighbours' ids, nearest first")
    _add_search(judge)

    tune = add_command(
        commands, "tune", _tune, "find the cheapest search setting that reaches a recall",
        "Try settings of the index on sample queries (not rows of the index), cheapest first, against exact search.",
        "fpq tune base.fpq queries.fvecs -k 10 --recall 0.9 --save",
    )  # fmt: skip
    tune.add_argument("index", metavar="INDEX", help="file that fpq has written")
    tune.add_argument("queries", metavar="QUERIES", help="file of vectors")
    tune.add_argument("-k", type=positive, default=10, metavar="K", help="neighbours (default: %(default)s)")
    tune.add_argument("--recall", type=float, default=0.95, metavar="R", help="K-recall@K (default: %(default)s)")
    tune.add_argument("--save", action="store_true", help="write the setting into INDEX: searches use it from then on")
    _add_shared(tune)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=positive, metavar="N", help="default: what the environment allows")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-k", type=positive, default=10, metavar="K", help="neighbours (default: %(default)s)")
    given = parser.add_argument_group("settings of the index", argument_default=argparse.SUPPRESS)
    given.add_argument("--n-probe", type=positive, metavar="N", help="ivfpq: lists, e2lsh: buckets to look into")
    given.add_argument("--n-candidates", type=positive, metavar="N", help="c2lsh: vectors to compare")
    given.add_argument("--rerank", type=positive, metavar="R", help="re-rank R * K codes by the kept vectors")
    parser.add_argument("--mmap", action="store_true", help="leave the index in its file")
    _add_shared(parser)


def _build(args: argparse.Namespace) -> None:
    cls, names = KINDS[args.kind]
    given = {name: value for name, value in vars(args).items() if name in BUILD_OPTIONS}
    _refuse(set(given) - set(names), f"--kind {args.kind}")
    if hasattr(args, "train_rows") and "m" not in names:
        _refuse({"train_rows"}, f"--kind {args.kind}")
    progress = Progress(args.quiet)
    outputs.check(args.index, [files.split(args.vectors)[0]], outputs.is_saved, force=args.force)
    with files.opened(args.vectors, files.BASE) as rows:
        if not len(rows):
            raise ValueError(f"{args.vectors}: holds no vectors")
        if args.kind == "ivfpq":
            given.setdefault("n_lists", max(1, min(len(rows), int(4 * len(rows) ** 0.5))))
        index = cls(**given, metric=args.metric, n_threads=args.threads)
        start = time.perf_counter()
        _fill(index, rows, args, given, progress)
        seconds = time.perf_counter() - start
    with progress.step("save"):
        index.save(args.index)
    report = {"index": args.index, "kind": type(index).__name__, "n": len(index), "dim": index.dim,
              "seconds": round(seconds, 3), "bytes": os.path.getsize(args.index)}  # fmt: skip
    print_json(report) if args.json else facts(report)


def _fill(index: Any, rows: files.Rows, args: argparse.Namespace, given: dict[str, Any], progress: Progress) -> None:
    if args.kind in ("e2lsh", "c2lsh"):  # they keep the vectors, and choose their settings for the rows to come
        x = rows.all()
        with progress.step(f"fit {len(rows):,} rows"):
            index.fit(x)
        with progress.step(f"add {len(rows):,} rows"):
            index.add(x)
        return
    if args.kind != "flat":
        size = getattr(args, "train_rows", max(TRAIN_ROWS, ROWS_PER_LIST * given.get("n_lists", 0)))
        with progress.step(f"fit {min(size, len(rows)):,} of {len(rows):,} rows"):
            index.fit(rows.sample(size, given.get("seed", 0)))
    with progress.bar("add", len(rows)) as advance:
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
        near = [[d if np.isfinite(d) else None for d in row] for row in distances.tolist()]
        print_json({"k": args.k, "seconds": round(seconds, 4), "ids": ids.tolist(), "distances": near})
    else:
        print("query\trank\tid\tdistance")
        for query, (found, far) in enumerate(zip(ids, distances, strict=True)):
            for rank, (name, distance) in enumerate(zip(found, far, strict=True)):
                print(f"{query}\t{rank}\t{name}\t{distance:.6g}")


def _eval(args: argparse.Namespace) -> None:
    index = _load(args.index, args.mmap)
    with files.opened(args.groundtruth, files.TRUTH) as rows:
        truth = rows.all()
    with files.opened(args.queries, files.QUERIES) as queries:
        if len(queries) != len(truth):
            raise ValueError(f"{args.groundtruth}: has {len(truth)} rows for {len(queries)} queries")
        _find(
            index, queries, argparse.Namespace(**{**vars(args), "quiet": True}), most=256
        )  # wakes threads, warms caches
        _, ids, seconds = _find(index, queries, args)
    depth = min(args.k, truth.shape[1])
    report: dict[str, Any] = {"queries": len(ids), "k": args.k, "queries_per_second": round(len(ids) / seconds, 1)}
    for r in (1, 10, 100):
        if r <= args.k:
            report[f"recall@{r}"] = round(metrics.recall_at_k(ids, truth, r), 4)
    report[f"{depth}-recall@{depth}"] = round(metrics.intersection_at_k(ids, truth, depth), 4)
    print_json(report) if args.json else facts(report)


def _tune(args: argparse.Namespace) -> None:
    if args.save:
        storage.refuse_input(args.index, [files.split(args.queries)[0]])
    index = fpq.load(args.index)
    if not hasattr(index, "tune"):
        raise ValueError(f"{args.index}: {type(index).__name__} has no setting to tune")
    with files.opened(args.queries, files.QUERIES) as rows:
        queries = rows.all()
    with Progress(args.quiet).step(f"tune on {len(queries):,} queries"):
        tuned = index.tune(queries, k=args.k, recall=args.recall, n_threads=args.threads)
    if args.save:
        index.save(args.index)
    if args.json:
        print_json({"best": tuned.best._asdict(), "trials": [trial._asdict() for trial in tuned.trials]})
    else:
        print(tuned)


def _load(file: str, mmap: bool) -> Any:
    index = fpq.ShardedIndex(file) if file.endswith(".json") else fpq.load(file, mmap=mmap)
    if not hasattr(index, "search"):
        raise ValueError(f"{file}: expected an index, got a {type(index).__name__}")
    return index


def _find(
    index: Any, queries: files.Rows, args: argparse.Namespace, most: int | None = None
) -> tuple[Float32, Int64, float]:
    """Distances and ids of (the first `most`) queries, and the seconds that searching took."""
    given = {name: getattr(args, name) for name in SEARCH_OPTIONS if hasattr(args, name)}
    _refuse(set(given) - set(inspect.signature(index.search).parameters), type(index).__name__)
    nq = len(queries) if most is None else min(most, len(queries))
    distances, ids = np.empty((nq, args.k), np.float32), np.empty((nq, args.k), np.int64)
    seconds, step = 0.0, max(1, min(QUERY_BLOCK, (1 << 24) // args.k))
    with Progress(args.quiet).bar("search", nq) as advance:
        for first in range(0, nq, step):
            here = slice(first, min(nq, first + step))
            block = queries.read(here.start, here.stop)
            start = time.perf_counter()
            distances[here], ids[here] = index.search(block, args.k, n_threads=args.threads, **given)
            seconds += time.perf_counter() - start
            advance(len(block))
    return distances, ids, seconds


def _refuse(options: set[str], of: str) -> None:
    if options:
        names = {"n_lists": "lists", "n_tables": "tables", "n_hashes": "hashes", "residual": "no-residual"}
        flags = ", ".join("--" + names.get(name, name).replace("_", "-") for name in sorted(options))
        raise UsageError(f"{flags}: not an option of {of}")
