"""What OpenIndexing does to codes: one set of codebooks, encoded again with each policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.paper import data, measure
from bench.paper.systems import CS, RECOMMENDED
from fpq import OpenIndexing, PQIndex, ProductQuantizer

CODEBOOKS = {
    "pixels, m = 8": {"m": 8},
    "rotation, m = 16": {key: value for key, value in RECOMMENDED.items() if key != "open_indexing"},
}
POLICIES = [
    None,
    *(OpenIndexing(c, n, scope) for scope in ("shared", "subspace") for n in (2, 8, 256) for c in CS),
]
DECODE_ROWS = 4096


@dataclass(frozen=True)
class Effect:
    """One policy on one set of codebooks; c is None where every row takes its nearest centroid."""

    codebooks: str
    scope: str | None
    candidates: int | None
    c: float | None
    squared_error: float  # of an image and its reconstruction, mean
    entropy_bits: float  # of a sub-code, mean over the subspaces; 8 at most
    unused: float  # share of the centroids without a row
    largest: float  # count of a centroid over its fair share, the largest of all subspaces
    largest_shared: float  # the same of the counts by code, all subspaces together, as printed
    accuracy_1nn: float
    accuracy_5nn: float


def effects(task: measure.Task) -> list[Effect]:
    """All policies on both sets of codebooks."""
    split = data.split(task.data, task.n_train, task.n_test)
    return [
        _effect(title, quantizer, policy, split, task.threads)
        for title, settings in CODEBOOKS.items()
        for quantizer in [ProductQuantizer(n_threads=task.threads, **settings).fit(split.train)]
        for policy in POLICIES
    ]


def _effect(
    title: str, quantizer: ProductQuantizer, policy: OpenIndexing | None, split: data.Split, threads: int
) -> Effect:
    vars(quantizer)["open_indexing"] = policy  # of a quantizer in use it cannot be set, of this one all codes are new
    index = PQIndex(quantizer.m, n_threads=threads)
    index.quantizer = quantizer
    index.add(split.train)
    codes = index.codes
    counts = np.array([np.bincount(column, minlength=256) for column in codes.T])
    quality = measure.judge(index.search(split.test, measure.VOTES)[1], split)
    return Effect(
        title,
        policy.scope if policy else None,
        policy.candidates if policy else None,
        policy.c if policy else None,
        _squared_error(quantizer, codes, split.train),
        _entropy(counts),
        float((counts == 0).mean()),
        float(counts.max() / counts.mean()),
        float(counts.sum(0).max() / counts.sum(0).mean()),
        quality["accuracy_1nn"],
        quality["accuracy_5nn"],
    )


def _squared_error(quantizer: ProductQuantizer, codes: np.ndarray, x: np.ndarray) -> float:
    total = 0.0
    for start in range(0, len(x), DECODE_ROWS):
        rows = slice(start, start + DECODE_ROWS)
        total += float(((quantizer.decode(codes[rows]) - x[rows]) ** 2).sum(dtype=np.float64))
    return total / len(x)


def _entropy(counts: np.ndarray) -> float:
    shares = counts / counts.sum(1, keepdims=True)
    logs = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    return float(-(shares * logs).sum(1).mean())
