"""Scaling by powers of two: squares and products of tiny and huge numbers stay within float32.

A vector times a power of two has the same mantissas and the same neighbours; its squared distances are multiplied by
the square of the power. Ordinary vectors are not scaled.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from fpq import _native, threads
from fpq._checks import Array, Float32
from fpq.learning.lloyd import LocalRows, TrainingRows

LEAST, MOST = 2.0**-30, 2.0**40  # bounds of the largest absolute value for squares well within float32
LEAST_PRODUCT, MOST_PRODUCT = 2.0**-60, 2.0**100  # bounds of sums of products
SAMPLE_ROWS = 256  # rows whose values decide whether all rows are inspected


def exponent(largest: float, most: float = math.inf) -> int:
    """The exponent that scales numbers of at most `largest` to about 1; 0 if their squares are within float32."""
    if largest == 0 or LEAST <= largest <= most:
        return 0
    return max(-126, min(126, -math.frexp(largest)[1]))


def scaled(x: Array, power: int) -> Array:
    """Rows times 2**power in float32; unchanged for power 0."""
    return np.ldexp(np.asarray(x, np.float32), power) if power else x


def training(rows: TrainingRows) -> tuple[TrainingRows, int]:
    """Training rows, scaled if necessary, and the power. Sums of squares in k-means limit large numbers too."""
    power = exponent(_native.largest(rows.take(np.arange(min(rows.n, SAMPLE_ROWS), dtype=np.int64)), 1), MOST)
    if power:
        power = exponent(max(rows.mapped(_largest_of, 1)), MOST)
    return (rows.changed(partial(_scaled_rows, power)), power) if power else (rows, 0)


def _largest_of(rows: LocalRows) -> float:
    return _native.largest(rows.take(None), rows.n_threads)


def _scaled_rows(power: int, x: Array, n_threads: int) -> Array:
    return scaled(x, power)


def largest(rows: Array, norms: Float32, n_threads: int | None) -> float:
    """An estimate of the largest absolute value of rows: from their squared norms, if these are within float32."""
    longest = float(norms.max(initial=0))
    if LEAST**2 <= longest < math.inf:
        return math.sqrt(longest)
    return _native.largest(rows, threads.resolve(n_threads)) if len(rows) else 0.0


def for_search(inner_product: bool, largest: float, queries: Float32) -> int:
    """The power for queries to an index whose vectors and centroids have absolute values up to `largest`.

    For squared distances the power applies to queries and index, for inner products to queries only.
    """
    if not inner_product:
        return 0 if largest >= LEAST else exponent(max(largest, _native.largest(queries, 1)))
    product = largest * _native.largest(queries, 1) * queries.shape[1]
    if product == 0 or LEAST_PRODUCT <= product <= MOST_PRODUCT:
        return 0
    aim = 60 if product > 1 else -20
    return max(-126, min(126, aim - math.frexp(product)[1]))


def threshold(distance: np.float32, power: int, inner_product: bool) -> np.float32:
    """A threshold for scaled vectors: at least every distance that `unscaled` converts to at most `distance`."""
    if not power:
        return distance
    with np.errstate(over="ignore", under="ignore"):
        above = np.ldexp(np.nextafter(distance, np.float32(np.inf)), power if inner_product else 2 * power)
        return np.float32(np.nextafter(above, np.float32(np.inf)))


def unscaled(distances: Float32, power: int, inner_product: bool) -> Float32:
    """Distances of scaled vectors, converted to those without scaling."""
    if not power:
        return distances
    with np.errstate(over="ignore", under="ignore"):
        return np.ldexp(distances, -power if inner_product else -2 * power)
