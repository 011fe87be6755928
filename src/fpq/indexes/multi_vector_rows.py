"""What a MultiVectorIndex learns from documents; the addition and the search of documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fpq import _native, progress, scaling, threads
from fpq._checks import Array, Float32, Int64, UInt64
from fpq.indexes.changes import Addition
from fpq.indexes.ivf import IVFPQIndex
from fpq.indexes.parts.documents import Documents
from fpq.indexes.parts.ids import Commit
from fpq.indexes.parts.tokens import Tokens
from fpq.learning.anisotropic import loss_of
from fpq.learning.defaults import default_token_lists
from fpq.learning.lloyd import LocalRows

if TYPE_CHECKING:
    from fpq.indexes.multi_vector import MultiVectorIndex

PROBES = 1 << 22  # probes of a query batch, 12 bytes each


def fitting(index: MultiVectorIndex, tokens: Array) -> Commit:
    """Learn the centroids and the codebooks from checked tokens."""
    n_lists, n_threads = index.n_lists or default_token_lists(len(tokens)), threads.resolve(index.n_threads)
    if len(tokens) < n_lists:
        raise ValueError(f"documents: expected a token for each of the {n_lists} lists, got {len(tokens)} token(s)")
    learner = IVFPQIndex(
        n_lists, index.quantizer.m, residual=index.residual, metric=index.metric, anisotropy=index.anisotropy,
        seed=index.quantizer.seed, n_threads=n_threads,
    )  # fmt: skip
    with progress.stage("sample", None, "rows") as advance:
        rows = LocalRows(tokens, learner._drawn(len(tokens)), n_threads)
        advance(rows.n)
    learner._learning(rows, len(tokens))()
    assert learner._coarse is not None
    learner._coarse.probe_by(None, n_threads)  # documents are scored by centroids
    new = {
        "n_lists": n_lists, "quantizer": learner.quantizer, "_coarse": learner._coarse,
        "_tokens": Tokens(learner.quantizer.code_size),
    }  # fmt: skip
    return lambda: vars(index).update(new)


def adding(index: MultiVectorIndex, x: Documents, n_threads: int) -> Addition:
    """Prepare checked documents."""
    assert index._coarse is not None
    tokens, prepare, vectors = index._tokens, index._metric.prepare, None
    labels = index._coarse.labels(x.tokens, prepare, np.zeros(index.n_lists, np.int64), None, n_threads)
    if index.keep_vectors and len(labels):
        unit_length, rows = index._metric.unit_length, np.arange(len(labels))
        vectors = tokens.vectors.write(x.tokens, rows, normalize=unit_length, n_threads=n_threads)
    lists, codes, commit = tokens.place(x.first, vectors)
    lists[:] = labels
    change = index._coarse.subtracting(labels, prepare, None) if index.residual else prepare

    def write(advance: progress.Advance) -> None:
        row = done = 0
        loss = loss_of(index.anisotropy, prepare)
        for part, _ in index.quantizer.encode_chunks(x.tokens, None, len(labels), n_threads, change, loss):
            codes[row : row + len(part)] = part
            row += len(part)
            finished = int(np.searchsorted(x.first, row, side="right")) - 1
            advance(finished - done)
            done = finished

    return Addition(commit, write)


def merging(index: MultiVectorIndex, other: MultiVectorIndex) -> Addition:
    """Prepare the documents of another index of the same training."""
    theirs = other._tokens
    rows = np.arange(theirs.n_tokens)
    vectors = index._tokens.vectors.write(theirs.vectors.data, rows) if index.keep_vectors else None
    lists, codes, commit = index._tokens.place(theirs.first, vectors)

    def write(advance: progress.Advance) -> None:
        lists[:], codes[:] = theirs.lists, theirs.codes
        advance(len(other))

    return Addition(commit, write)


def scan(
    index: MultiVectorIndex, queries: Documents, power: int, answers: _native.Answers, allowed: UInt64 | None,
    n_threads: int, n_probe: int, n_candidates: int,
) -> Int64:  # fmt: skip
    """Fill `answers` for prepared queries, scaled by 2**power. Returns the number of found documents, (nq,)."""
    assert index._coarse is not None
    tokens, centroids = index._tokens, index._coarse.centroids
    found, n_probe = np.empty(len(queries), np.int64), min(len(centroids), n_probe)
    postings, adc = tokens.postings(len(centroids)), index.quantizer.adc(index._metric)
    step = max(1, PROBES // (n_probe * int(np.diff(queries.first).max())))
    for start in range(0, len(queries), step):
        batch = queries.part(start, min(start + step, len(queries)))
        probes = index._coarse.probe(batch.tokens, n_probe, n_threads, power)
        _native.maxsim_search(
            adc, centroids, index.residual, *postings, tokens.first, tokens.lists, tokens.codes, index._ids.native,
            allowed, batch.tokens, batch.first, probes, n_candidates, start, answers, found[start : start + step],
            n_threads,
        )  # fmt: skip
    return found


def reranked(
    index: MultiVectorIndex, queries: Documents, candidates: Int64, k: int, n_threads: int
) -> tuple[Float32, Int64]:
    """The k best candidates of prepared queries by the kept vectors; `candidates` are ids (nq, r >= k)."""
    scaled, power = index._scaled(queries)
    exact = np.full(candidates.shape, np.inf, np.float32)
    for i, ids in enumerate(candidates):
        rows = index._ids.rows_or_missing(ids[ids >= 0])
        query = scaled.tokens[scaled.first[i] : scaled.first[i + 1]]
        if len(rows):
            exact[i, ids >= 0] = index._tokens.distances(query, rows, index._metric, n_threads)
    distances, nearest = np.empty((len(exact), k), np.float32), np.empty((len(exact), k), np.int64)
    _native.smallest(exact, candidates, distances, nearest, n_threads)
    return scaling.unscaled(distances, power, inner_product=True), nearest


def decoded(index: MultiVectorIndex, numbers: Int64) -> Float32:
    """The vectors that the codes of these tokens stand for."""
    assert index._coarse is not None
    n_threads = threads.resolve(index.n_threads)
    found = index.quantizer.decoded(index._tokens.codes[numbers], n_threads)
    if index.residual and len(numbers):
        residuals, lists = found, index._tokens.lists_of(numbers, len(index._coarse.centroids))
        found = np.empty_like(residuals)
        _native.add_centroids(residuals, index._coarse.centroids, lists, 1, found, n_threads)
    return found
