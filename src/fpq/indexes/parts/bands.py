"""The hash functions and the bands of MinHash."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpq import _checks, _native
from fpq._checks import UInt8, UInt32
from fpq.indexes.parts.sets import Sets

LEAST_FOUND = 0.95  # share of the pairs at the threshold that the chosen bands find, or more
MOST_HASHES = 4096
BITS = (8, 16, 32)


def hash_count(name: str, value: Any) -> int:
    """Check that `value` is a number of hash functions."""
    number = _checks.integer(name, value, 16, MOST_HASHES)
    if number % 16:
        raise ValueError(f"{name}: expected a multiple of 16, got {number}")
    return number


def similarity(name: str, value: Any) -> float:
    """Check that `value` is a similarity above 0, at most 1."""
    number = _checks.real(name, value)
    if not 0 < number <= 1:
        raise ValueError(f"{name}: expected a number above 0, at most 1, got {number}")
    return number


def chosen(threshold: float, n_hashes: int) -> tuple[int, int]:
    """The bands of the most rows that find a pair at the threshold with a probability of LEAST_FOUND."""
    for rows in range(n_hashes, 1, -1):
        bands = n_hashes // rows
        if found(threshold, bands, rows) >= LEAST_FOUND:
            return bands, rows
    return n_hashes, 1


def found(similarity: float, bands: int, rows: int) -> float:
    """The probability that two sets of this similarity have a band in common."""
    return 1 - (1 - similarity**rows) ** bands


def given(bands: Any, n_hashes: int) -> tuple[int, int]:
    """Check a pair (bands, rows)."""
    if not isinstance(bands, (tuple, list)) or len(bands) != 2:
        raise TypeError(f"bands: expected a pair (bands, rows), got {bands!r}")
    n_bands, n_rows = (_checks.integer("bands", each, 1, MOST_HASHES) for each in bands)
    if n_bands * n_rows > n_hashes:
        raise ValueError(f"bands: expected at most {n_hashes} hash functions in all bands, got {n_bands} x {n_rows}")
    return n_bands, n_rows


def functions(n_hashes: int, bands: tuple[int, int], bits: int, seed: int) -> _native.MinHash:
    """The hash functions of a seed, from the words of a generator that NumPy promises not to change."""
    n_bands, n_rows = bands
    words = np.random.PCG64(seed).random_raw(1 + n_hashes + n_bands * n_rows)
    pairs, odd = words[1 : 1 + n_hashes], np.uint64(1)
    factors = ((pairs >> np.uint64(32)) | odd).astype(np.uint32)
    shifts = pairs.astype(np.uint32)
    return _native.MinHash(n_bands, n_rows, bits, int(words[0]), factors, shifts, words[1 + n_hashes :] | odd)


def signed(hashes: _native.MinHash, sets: Sets, signatures: UInt8 | None, n_threads: int) -> UInt32:
    """The keys (n, n_bands) of sets; their signatures go to bytes (n, width), unless these are None."""
    keys = np.empty((len(sets), hashes.arguments[0]), np.uint32)
    if len(sets):
        hashes.sign(sets.first, sets.items, signatures, keys, n_threads)
    return keys
