"""What ids cost: ``python bench/ids.py [--rows 1000000] [--kinds FlatIndex PQIndex ...] [--adds 4000]``.

Of an index of each kind and for each choice of ids (row numbers, a random order of even numbers, random numbers up to
2**63): a query by itself beside the same query with 1,000 allowed ids, with a mask of these ids, with half of all ids
and with a mask of half; the removal of one row and the addition of one row. Each figure is the median of some calls on
one thread, and the first call, which may have to make a table of the ids. At the end, the time of adding rows one by
one with ids in random order, and how many times as long four times as many rows take.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import fpq

D = 32
CALLS = 15
ALLOWED = 1000
MAKE: dict[str, Callable[[], Any]] = {
    "FlatIndex": fpq.FlatIndex,
    "PQIndex": partial(fpq.PQIndex, 16),
    "IVFPQIndex": partial(fpq.IVFPQIndex, 1024, 16),
    "E2LSHIndex": fpq.E2LSHIndex,
    "C2LSHIndex": fpq.C2LSHIndex,
    "PMLSHIndex": fpq.PMLSHIndex,
}
IDS = ("rows", "shuffled", "sparse")


def ids_of(choice: str, n: int, rng: np.random.Generator) -> np.ndarray | None:
    """Ids for `n` rows."""
    if choice == "rows":
        return None
    return rng.permutation(n) * 2 if choice == "shuffled" else rng.integers(0, 1 << 63, n)


def report(what: str, call: Callable[[int], object], alone: float | None = None) -> float:
    """Print the median of some calls and the first, in milliseconds, and the ratio to `alone`; the median."""
    taken = []
    for i in range(CALLS):
        start = time.perf_counter()
        call(i)
        taken.append(1000 * (time.perf_counter() - start))
    median = float(np.median(taken[1:]))
    ratio = "" if alone is None else f"  {median / alone:7.2f} times the query alone"
    print(f"  {what:20} {median:9.3f} ms, first {taken[0]:9.3f} ms{ratio}", flush=True)
    return median


def measure(index: Any, X: np.ndarray, Q: np.ndarray, rng: np.random.Generator, masks: bool) -> None:
    """Print the lines of an index."""
    ids = index.ids
    few = [rng.choice(ids, ALLOWED, replace=False) for _ in range(CALLS)]
    half = rng.permutation(ids)[: len(ids) // 2]
    alone = report("query", lambda i: index.search(Q[i]))
    report("1,000 allowed ids", lambda i: index.search(Q[i], allowed=few[i]), alone)
    report("half of the ids", lambda i: index.search(Q[i], allowed=half), alone)
    for what, chosen in (("mask of 1,000", few[0]), ("mask of half", half)) if masks else ():
        mask = np.zeros(int(ids.max()) + 1, dtype=np.bool_)
        mask[chosen] = True
        report(what, lambda i, mask=mask: index.search(Q[i], allowed=mask), alone)  # type: ignore[misc]
    gone = rng.choice(ids, CALLS, replace=False)
    report("removal of one", lambda i: index.remove(gone[i]))
    report("addition of one", lambda i: index.add(X[i : i + 1], ids=gone[i : i + 1]))


def seconds_to_add(index: Any, rows: np.ndarray, ids: np.ndarray) -> float:
    """Add rows one by one."""
    start = time.process_time()
    for row, each in zip(rows, ids, strict=True):
        index.add(row[None], ids=[each])
    return time.process_time() - start


def main() -> None:
    """Print a few lines a kind and choice of ids."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kinds", nargs="+", default=list(MAKE), choices=list(MAKE))
    parser.add_argument("--ids", nargs="*", default=list(IDS), choices=IDS)
    parser.add_argument("--adds", type=int, default=4000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(options.rows, D)).astype(np.float32)
    Q = rng.normal(size=(CALLS, D)).astype(np.float32)
    for kind in options.kinds:

        def trained(kind: str = kind) -> Any:
            return MAKE[kind](n_threads=1).fit(X[:100_000])

        for choice in options.ids:
            index = trained().add(X, ids=ids_of(choice, len(X), rng))
            print(f"{kind}, {len(index)} rows, ids: {choice}", flush=True)
            measure(index, X, Q, rng, masks=choice != "sparse")
            del index
        if options.adds:
            order = rng.permutation(4 * options.adds)
            one, four = (seconds_to_add(trained(), X[:n], order[:n]) for n in (options.adds, 4 * options.adds))
            print(
                f"{kind}: {options.adds} rows one by one {one:.2f} s, four times as many {four / one:.1f} times as long"
            )


if __name__ == "__main__":
    main()
