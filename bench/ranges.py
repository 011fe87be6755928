"""Range search beside search for about as many answers, and both with `allowed`: ``python bench/ranges.py``.

A radius is the median distance of the k-th neighbour. A ratio is the least time of `range_search` divided by the least
time of `search`, alternating.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take time from other programs

import fpq

ROWS, QUERIES, D, ROUNDS = 200_000, 1000, 64, 5
INDEXES: dict[str, Callable[[], Any]] = {
    "Flat": fpq.FlatIndex,
    "PQ": lambda: fpq.PQIndex(16),
    "PQ, PCA": lambda: fpq.PQIndex(16, rotation="pca"),
    "PQ, 4 bits": lambda: fpq.PQIndex(16, nbits=4),
    "IVF": lambda: fpq.IVFPQIndex(256, 16),
    "IVF, plain": lambda: fpq.IVFPQIndex(256, 16, residual=False),
}


def seconds(call: Callable[[], Any]) -> float:
    """The time of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(200, D)).astype(np.float32)
    X, Q = ((centres[rng.integers(0, 200, n)] + rng.normal(size=(n, D))).astype(np.float32) for n in (ROWS, QUERIES))
    print(f"{'index':<12} {'allowed':>8} {'k':>4} {'hits':>6} {'search ms':>10} {'range ms':>9} {'ratio':>6}")
    for name, make in INDEXES.items():
        index = make().fit(X).add(X)
        for allowed in (None, rng.random(ROWS) < 0.3):
            for k in (10, 100):
                radius = float(np.median(index.search(Q, k, allowed=allowed).distances[:, -1]))
                hits = index.range_search(Q, radius, allowed=allowed).lims[-1] / QUERIES
                times = np.min(
                    [
                        (
                            seconds(lambda: index.search(Q, k, allowed=allowed)),  # noqa: B023
                            seconds(lambda: index.range_search(Q, radius, allowed=allowed)),  # noqa: B023
                        )
                        for _ in range(ROUNDS)
                    ],
                    axis=0,
                )
                part = "all" if allowed is None else "30 %"
                print(
                    f"{name:<12} {part:>8} {k:>4} {hits:>6.0f} {times[0] * 1e3:>10.1f} {times[1] * 1e3:>9.1f} "
                    f"{times[1] / times[0]:>6.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
