"""The warning that a search of codes alone cannot reach a high recall."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fpq import _checks
from fpq._checks import Float32
from fpq.learning.quantizer import ProductQuantizer
from fpq.metric import Metric

if TYPE_CHECKING:
    from fpq.indexes.base import SearchResult
    from fpq.indexes.pq_base import CodeIndex

# bench/widths.py on SIFT, GloVe-50 and MiniLM: every recall@10 above 0.7 has a noise of at most 0.66; recalls of 0.41
# and 0.19 have 1.54 and 3.48. SIFT with 16 bytes has 0.95 and a recall of 0.56, and gives no warning.
LARGE_NOISE = 1.1
LEAST_NEIGHBOURS = 5  # k: the distances of fewer say little about the growth
LEAST_QUERIES = 16  # fewer say little about the distances of neighbours
MOST_QUERIES = 256  # from which the distances are estimated
LEAST_ROWS = 10_000  # with fewer, an exact search is fast anyway
LONGEST_LIST = 100  # a search for this many neighbours or more has candidates for a later stage

_warned = False  # in this process


def judge(index: CodeIndex, Q: Any, found: SearchResult) -> bool:
    """Warn if a search has shown that the codes alone cannot reach a high recall; whether it could tell."""
    distances, ids = found
    few = len(index) < LEAST_ROWS or ids.ndim == 1 or len(ids) < LEAST_QUERIES
    if few or not LEAST_NEIGHBOURS <= ids.shape[1] < LONGEST_LIST:
        return False
    chosen = np.flatnonzero(ids[:, -1] >= 0)[:MOST_QUERIES]
    if len(chosen) < LEAST_QUERIES:
        return False
    queries, _ = index._queries(_checks.numbers("Q", Q)[chosen], 1)
    warn(noise(index.quantizer, index._metric, queries, distances[chosen]), bool(index.keep_vectors))
    return True


def noise(pq: ProductQuantizer, metric: Metric, queries: Float32, distances: Float32) -> float:
    """The noise of the distances of codes, in multiples of the growth of the distances when the rank grows by e.

    An error e of a code changes a squared distance D by 2 sqrt(D) times the part of e in one direction, and an inner
    product by the length of the query times this part, which is sqrt(E / d): E is the mean squared error of the codes
    of the training rows. Noise that outweighs the growth of distances mixes neighbours with rows of far higher ranks.

    Parameters
    ----------
    pq : ProductQuantizer
    metric : Metric
    queries : float32 (nq, d)
        Prepared.
    distances : float32 (nq, k)
        The answers of a search.
    """
    rows = int(pq.code_counts[0].sum())
    if not rows or not np.isfinite(pq.inertia):  # converted from faiss, which does not store them
        return 0.0
    error = pq.inertia / rows
    if not error:
        return 0.0
    near, far = distances[:, 0].astype(np.float64), distances[:, -1].astype(np.float64)
    growth = np.abs(far - near) / np.log(distances.shape[1])
    square = np.square(queries.astype(np.float64)).sum(axis=1) if metric.inner_product else 4 * (far + error)
    spread = np.sqrt(square * error / pq.dim)
    return float(np.median(np.divide(spread, growth, out=np.full(len(growth), np.inf), where=growth > 0)))


def warn(noise: float, keeps_vectors: bool) -> None:
    """Warn, once per process, if the noise is large."""
    global _warned  # noqa: PLW0603
    if _warned or noise <= LARGE_NOISE:
        return
    _warned = True
    advice = (
        "call tune, or give rerank"
        if keeps_vectors
        else "build the index with keep_vectors=True and call tune, or use more codes per vector (m)"
    )
    _checks.warn(
        "search: the codes are too coarse to find more than about 0.6 to 0.7 of the true neighbours, whatever n_probe "
        f"is: {advice} (see fpq.recommend)",
        UserWarning,
    )
