"""The metrics: all that sets one apart from the others, apart from its kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fpq import _native
from fpq._checks import Array, Float32


@dataclass(frozen=True)
class Metric:
    """A way to compare vectors, by its name in the public interface.

    Kernels give distances, of which the smallest are the nearest: squared L2 distances or negated inner products.

    Attributes
    ----------
    name : str
    inner_product : bool
        Kernels take inner products, and users get them as similarities: the largest are the nearest.
    unit_length : bool
        Vectors and queries are scaled to length 1.
    euclidean : bool
        Neighbours are those by L2 distance of the prepared vectors: hash functions and lists for L2 serve.
    """

    name: str
    inner_product: bool
    unit_length: bool
    euclidean: bool

    def prepare(self, x: Array, n_threads: int) -> Array:
        """Rows as they are compared: float32 of length 1, or as they come."""
        if not self.unit_length:
            return x
        out = np.empty(x.shape, dtype=np.float32)
        _native.normalize(x, out, n_threads)
        return out

    def to_user(self, distances: Float32) -> Float32:
        """Distances of the kernels as the user gets them, in place; the same function leads back."""
        return np.negative(distances, out=distances) if self.inner_product else distances


L2 = Metric("l2", inner_product=False, unit_length=False, euclidean=True)
INNER_PRODUCT = Metric("ip", inner_product=True, unit_length=False, euclidean=False)
COSINE = Metric("cosine", inner_product=True, unit_length=True, euclidean=True)

METRICS = {metric.name: metric for metric in (L2, INNER_PRODUCT, COSINE)}
