"""The metrics: the properties of each, except for its kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fpq import _native
from fpq._checks import Array, Float32

MetricName = Literal["l2", "ip", "cosine"]


@dataclass(frozen=True)
class Metric:
    """A metric of the public interface.

    Kernels compute distances, smallest first: squared L2 distances or negated inner products.

    Attributes
    ----------
    name : str
    kernel : int
        The number of the kernels' metric (FPQ_METRICS in csrc/fpq.h).
    inner_product : bool
        Kernels compute negated inner products, users get similarities: the largest are the nearest.
    unit_length : bool
        Vectors and queries are normalised to length 1.
    euclidean : bool
        The L2 distances of prepared vectors give the same neighbours, so hash functions and lists for L2 can be used.
    """

    name: MetricName
    kernel: int
    inner_product: bool
    unit_length: bool
    euclidean: bool

    def prepare(self, x: Array, n_threads: int) -> Array:
        """Rows for comparison: float32 of length 1, or unchanged."""
        if not self.unit_length:
            return x
        out = np.empty(x.shape, dtype=np.float32)
        _native.normalize(x, out, n_threads)
        return out

    def to_user(self, distances: Float32) -> Float32:
        """Convert the distances of kernels to those of users, in place; the inverse is the same function."""
        return negated(distances) if self.inner_product else distances


def negated(distances: Float32) -> Float32:
    """Negate distances in place; 0 stays 0, where a negation would give -0."""
    return np.subtract(_ZERO, distances, out=distances)


_ZERO = np.float32(0)
L2 = Metric("l2", _native.L2, inner_product=False, unit_length=False, euclidean=True)
INNER_PRODUCT = Metric("ip", _native.IP, inner_product=True, unit_length=False, euclidean=False)
COSINE = Metric("cosine", _native.IP, inner_product=True, unit_length=True, euclidean=True)
# Of sets: no index of vectors can have it.
JACCARD = Metric("jaccard", _native.IP, inner_product=True, unit_length=False, euclidean=False)  # type: ignore[arg-type]

# What other libraries call these metrics.
NAMES_ELSEWHERE: dict[str, MetricName] = {
    "euclidean": "l2", "sqeuclidean": "l2", "squared_l2": "l2", "l2sq": "l2", "L2": "l2", "minkowski": "l2",
    "inner_product": "ip", "dot": "ip", "dot_product": "ip", "cos": "cosine", "angular": "cosine",
}  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in (L2, INNER_PRODUCT, COSINE)}
BY_NAME = {**METRICS, "jaccard": JACCARD}
