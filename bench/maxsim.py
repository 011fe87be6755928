"""Late interaction beside brute force in NumPy: ``python bench/maxsim.py [words|minilm]...``, on two threads.

words: made-up tokens, 10,000 documents of 20 to 100 tokens of 128 dimensions. A token is the sum of a word vector (of
5,000, drawn with frequencies proportional to 1 / rank), a vector of its document with half the length, and noise with
half the length, scaled to length 1. A query is 32 tokens of a document, with noise of 0.7 times their length.

minilm: the 40,000 sentences of the data set, clustered by k-means into 4,000 documents of near sentences; a sentence is
a token. A query is a sentence of the query set and its seven nearest neighbours in the query set.

Brute force multiplies a query with all tokens, takes the maximum per document by `np.maximum.reduceat`, and adds up.
Recall@10 is the share of its 10 best documents among those of `search`. Times are the least of some calls, the two
alternating, and the means over some queries: of single queries, and of all queries in one call of `search`. A ratio is
that of brute force to `search`.
`found` is the share of all documents that a query finds in its lists, `scored` the share that is scored by codes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ["OMP_NUM_THREADS"] = "2"  # NumPy's BLAS reads this variable, too
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take time from other programs

import numpy as np

import fpq

K, QUERIES, TIMED, ROUNDS = 10, 100, 4, 6
SETTINGS = [(1, 64), (2, 64), (4, 64), (4, 256), (8, 256), (16, 1024)]  # n_probe, n_candidates


def unit(x: Any) -> Any:
    """Rows of length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def words() -> tuple[Any, Any, Any]:
    """Made-up tokens, lengths and queries."""
    rng = np.random.default_rng(0)
    n, d, vocabulary = 10_000, 128, 5000

    def directions(count: int) -> Any:
        return unit(rng.normal(size=(count, d)).astype(np.float32))

    lengths = rng.integers(20, 101, n)
    frequencies = 1 / np.arange(1, vocabulary + 1)
    drawn = rng.choice(vocabulary, lengths.sum(), p=frequencies / frequencies.sum())
    context = np.repeat(directions(n), lengths, axis=0)
    tokens = unit(directions(vocabulary)[drawn] + 0.5 * context + 0.5 * directions(len(drawn)))
    first = np.cumsum(lengths) - lengths
    rows = [first[i] + rng.integers(0, lengths[i], 32) for i in rng.integers(0, n, QUERIES)]
    return tokens, lengths, np.stack([unit(tokens[each] + 0.7 * directions(32)) for each in rows])


def minilm() -> tuple[Any, Any, Any]:
    """Sentences, lengths of groups and queries."""
    data = fpq.datasets.load("minilm")
    x, q = unit(np.asarray(data.base, np.float32)), unit(np.asarray(data.query, np.float32))
    labels = fpq.KMeans(4000).fit(x).predict(x)
    lengths = np.bincount(labels)
    near = fpq.FlatIndex("cosine").add(q).search(q[:QUERIES], 8).ids
    return x[np.argsort(labels, kind="stable")], lengths[lengths > 0], q[near]


def brute_force(query: Any, tokens: Any, first: Any) -> Any:
    """The K best documents."""
    scores = np.maximum.reduceat(query @ tokens.T, first, axis=1).sum(axis=0)
    return np.argpartition(-scores, K)[:K]


def seconds(call: Callable[[], Any]) -> float:
    """The time of a call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(name: str, tokens: Any, lengths: Any, queries: Any) -> None:
    """Print the table of a data set."""
    first = np.cumsum(lengths) - lengths
    begin = time.perf_counter()
    index = fpq.MultiVectorIndex(keep_vectors=True, n_threads=2).fit(tokens, lengths=lengths)
    trained = time.perf_counter()
    index.add(tokens, lengths=lengths)
    print(
        f"{name}: {len(lengths):,} documents, {len(tokens):,} tokens, {queries.shape[1]} tokens per query; "
        f"{index.n_lists:,} lists, m = {index.quantizer.m}; fit {trained - begin:.1f} s, "
        f"add {time.perf_counter() - trained:.1f} s"
    )
    truth = [brute_force(query, tokens, first) for query in queries]
    print(f"{'n_probe':>7} {'n_cand':>6} {'rerank':>6} {'recall':>6} {'found':>6} {'scored':>6} "
          f"{'one: NumPy ms':>14} {'fpq ms':>7} {'ratio':>6} {'all: fpq ms':>12} {'ratio':>6}")  # fmt: skip
    for n_probe, n_candidates in SETTINGS:
        for rerank in (None, 4):
            effort = {"n_probe": n_probe, "n_candidates": n_candidates, "rerank": rerank}
            ids = index.search(queries, K, **effort).ids
            found = index.last_found
            recall = np.mean([np.isin(a, b).mean() for a, b in zip(truth, ids, strict=True)])
            times = np.array(
                [
                    [
                        (
                            seconds(lambda: brute_force(query, tokens, first)),  # noqa: B023
                            seconds(lambda: index.search(query, K, **effort)),  # noqa: B023
                            seconds(lambda: index.search(queries, K, **effort)) / len(queries),  # noqa: B023
                        )
                        for query in queries[:TIMED]
                    ]
                    for _ in range(ROUNDS)
                ]
            )
            times = times.min(axis=0).mean(axis=0)
            scored = np.minimum(found, n_candidates).mean() / len(lengths)
            print(
                f"{n_probe:>7} {n_candidates:>6} {rerank or '-':>6} {recall:>6.3f} {found.mean() / len(lengths):>6.1%} "
                f"{scored:>6.2%} {times[0] * 1e3:>14.2f} {times[1] * 1e3:>7.2f} {times[0] / times[1]:>6.1f} "
                f"{times[2] * 1e3:>12.2f} {times[0] / times[2]:>6.1f}",
                flush=True,
            )


def main() -> None:
    """Measure the data sets that the command line names."""
    for name in sys.argv[1:] or ["words", "minilm"]:
        measure(name, *{"words": words, "minilm": minilm}[name]())


if __name__ == "__main__":
    main()
