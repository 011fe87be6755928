"""Sketches of vectors: short codes whose distances bound those of the vectors from below."""

from __future__ import annotations

import math

import numpy as np

from fpq import _native, scaling
from fpq._arrays import pack
from fpq._checks import Array, Float32
from fpq.learning import rotation
from fpq.learning.lloyd import LocalRows

CLIPPED = 0.005  # share of sample rows outside the range of a sketch coordinate, at each end
WIDE = 4096  # vectors of more dimensions get their principal directions from WIDE_ROWS rows
WIDE_ROWS = 1024
WIDE_VALUES = 1 << 26  # values of the rows that give the ranges of wide sketches
MOST_SCALE = 1e30  # largest scale of sketches in codes per unit of distance: products with the scale must fit float32


def sketch_size(d: int) -> int:
    """Bytes per sketch: about a quarter of d, 16 to 64; 0 for d < 32, as short vectors are read as fast as sketches."""
    return 0 if d < 32 else min(64, max(16, d // 64 * 16))


def sketcher(sample: Array, n_threads: int) -> _native.LSHSketcher:
    """Fit sketches to a sample: principal coordinates and the norm of the remainder (csrc/lsh/verify.c)."""
    d = sample.shape[1]
    sample, power = unit_sized(sample, n_threads)
    size = sketch_size(d)
    if d > WIDE or d > len(sample):
        sample = _evenly(sample, WIDE_VALUES // d)
        principal = rotation.pca_of_wide(_evenly(sample, WIDE_ROWS), size - 1, n_threads)
    else:
        principal = rotation.pca(LocalRows(sample, None, n_threads), 1, size - 1)
    centred = sample - principal.mean
    coordinates = principal.apply(sample, n_threads) - principal.apply(principal.mean[None], 1)
    remainder = np.linalg.norm(centred - coordinates @ principal.matrix.T, axis=1)
    low, high = np.quantile(np.column_stack([coordinates, remainder]), [CLIPPED, 1 - CLIPPED], axis=0)
    extent = float((high - low).max())
    with np.errstate(over="ignore"):
        least = np.ldexp((low + high) / 2 - extent / 2, -power).astype(np.float32)
        centre = scaling.scaled(principal.mean, -power)
    if not np.isfinite(least).all():
        raise ValueError("X: expected rows whose distances are finite as float32, got inf: scale X down")
    directions = np.ascontiguousarray(principal.matrix.T)
    scale = min(math.ldexp(255 / extent, power), MOST_SCALE) if extent > 0 else 1.0
    return sketcher_of(centre, directions, least, scale)


def sketcher_of(centre: Float32, directions: Float32, least: Float32, scale: float) -> _native.LSHSketcher:
    """Sketches with orthonormal directions (size - 1, d)."""
    size, d = directions.shape
    return _native.LSHSketcher(centre, pack(directions, d), pack(directions.T, size), least, scale)


def unit_sized(x: Array, n_threads: int) -> tuple[Array, int]:
    """The rows times 2**power, and power: 0 unless sums of squares exceed the range of float32."""
    power = scaling.exponent(_native.largest(x, n_threads), scaling.MOST)
    return scaling.scaled(x, power), power


def _evenly(x: Array, n: int) -> Array:
    """About n rows at equal intervals."""
    return x[:: -(-len(x) // max(1, n)) or 1]
