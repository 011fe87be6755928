"""The module for ann-benchmarks through that project's interface, without it and without Docker.

    python bench/ann_benchmarks/run.py [--data sift500k|random] [--groups fpq-ivf ...] [--queries 1000] [--most 3]

As ann-benchmarks does: k = 10, one query at a time on one core, the mean time of the best run, recall by true distances
(a hit is at most 1e-3 farther than the true 10th), ids that must be distinct and none negative. Only building uses all
cores here.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import fpq

FOLDER = Path(__file__).resolve().parent / "fpq"
K, SLACK = 10, 1e-3


class BaseANN:
    """The part of ann_benchmarks.algorithms.base.module that the module uses."""

    def get_additional(self) -> dict[str, Any]:
        return {}


def load_module() -> types.ModuleType:
    """module.py under the name that it has there, beside a base.module with BaseANN."""
    package = "ann_benchmarks.algorithms"
    for name in ("ann_benchmarks", package, f"{package}.base", f"{package}.base.module", f"{package}.fpq"):
        sys.modules.setdefault(name, types.ModuleType(name)).__path__ = []  # type: ignore[attr-defined]
    sys.modules[f"{package}.base.module"].BaseANN = BaseANN  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location(f"{package}.fpq.module", FOLDER / "module.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def algorithms() -> dict[str, dict[str, Any]]:
    """The entries of config.yml by name."""
    return {entry["name"]: entry for entry in yaml.safe_load((FOLDER / "config.yml").read_text())["float"]["any"]}


def combinations(lists: list[list[Any]]) -> list[tuple[Any, ...]]:
    """What a cartesian product of arguments stands for, as ann-benchmarks reads it."""
    return list(itertools.product(*lists))


def distances(metric: str, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """As ann-benchmarks scores: Euclidean, or 1 minus the cosine."""
    rows, query = rows.astype(np.float32), query.astype(np.float32)
    if metric == "euclidean":
        return np.linalg.norm(rows - query, axis=-1)
    return 1 - rows @ query / (np.linalg.norm(rows, axis=-1) * np.linalg.norm(query))


def measure(algorithm: Any, data: Any, metric: str, runs: int) -> tuple[float, float]:
    """Recall and queries per second."""
    best, found = np.inf, []
    for _ in range(runs):
        found, seconds = [], 0.0
        for query in data.query:
            start = time.perf_counter()
            ids = algorithm.query(query, K)
            seconds += time.perf_counter() - start
            found.append(ids)
        best = min(best, seconds / len(data.query))
    hits = 0
    for query, ids, truth in zip(data.query, found, data.groundtruth, strict=True):
        assert len(set(ids.tolist())) == len(ids) and (ids >= 0).all(), ids
        limit = distances(metric, data.base[truth[K - 1]], query) + SLACK
        hits += int((distances(metric, data.base[ids], query) <= limit).sum())
    return hits / (K * len(found)), 1 / best


def random_data() -> fpq.datasets.Dataset:
    """Like random-xs-20-angular: 10,000 rows of 20 dimensions."""
    x = np.random.default_rng(0).normal(size=(10_100, 20)).astype(np.float32)
    base, query = x[:10_000], x[10_000:]
    return fpq.datasets.Dataset("random", base, query, fpq.FlatIndex("cosine").add(base).search(query, 100).ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="sift500k", help="a name for fpq.datasets.load, or random")
    parser.add_argument("--groups", nargs="*", default=list(algorithms()), choices=list(algorithms()))
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--most", type=int, help="stop after so many indexes of a run group")
    args = parser.parse_args()
    data = random_data() if args.data == "random" else fpq.datasets.load(args.data)
    data = data._replace(
        base=np.ascontiguousarray(data.base, np.float32),  # as HDF5 files hold them
        query=np.ascontiguousarray(data.query[: args.queries], np.float32),
        groundtruth=data.groundtruth[: args.queries],
    )
    metric = "angular" if args.data == "random" else "euclidean"
    module = load_module()
    for entry in (algorithms()[name] for name in args.groups):
        for group in entry["run_groups"].values():
            for arguments in combinations(group["args"])[: args.most]:
                algorithm = getattr(module, entry["constructor"])(metric, *arguments)
                start = time.perf_counter()
                algorithm.fit(data.base)
                print(
                    f"{algorithm.name}: built in {time.perf_counter() - start:.1f} s, {algorithm._index.nbytes:,} bytes"
                )
                for settings in combinations(group["query_args"]):
                    algorithm.set_query_arguments(*settings)
                    recall, rate = measure(algorithm, data, metric, args.runs)
                    print(f"  {algorithm._settings!s:36} recall {recall:.4f} {rate:10,.0f} queries/s", flush=True)


if __name__ == "__main__":
    main()
