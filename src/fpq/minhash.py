"""Near-duplicates by MinHash: shingles of texts, all pairs of similar sets, and clusters of them.

`fpq.MinHashIndex` searches the sets that are similar to others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, threads
from fpq._checks import Float32, Int64, UInt8, UInt32, UInt64
from fpq.indexes.minhash import MOST_SETS
from fpq.indexes.parts import bands as banding
from fpq.indexes.parts.sets import Sets, SetsLike, checked, gathered
from fpq.indexes.parts.tables import directory_bits

__all__ = ["Pairs", "clusters", "duplicates", "shingles"]

MOST_UNITS = 1024  # words or characters of a shingle
BANDS_AT_A_TIME = 8  # whose tables are in memory


class Pairs(NamedTuple):
    """Pairs of similar sets; a pair ``pairs, similarities = duplicates(...)``.

    Attributes
    ----------
    pairs : int64 (n_pairs, 2)
        The numbers i < j of two sets, in ascending order.
    similarities : float32 (n_pairs,)
        Their Jaccard similarities.
    """

    pairs: Int64
    similarities: Float32


def shingles(
    texts: Iterable[str], n: int = 3, unit: Literal["words", "characters"] = "words", *, n_threads: int | None = None
) -> tuple[Int64, UInt64]:
    """The shingles of texts: all sequences of n words or characters, as sets of integers.

    A shingle of words is the tuple of these, or the word if n is 1; a shingle of characters is a string. The integers
    are the hashes that `fpq.MinHashIndex` takes for such items. A text of fewer than n words or characters has one
    shingle of all of them; an empty text has none. White space of ASCII separates words. Letters and punctuation count
    as they are: ``text.lower()`` makes upper and lower case the same.

    Parameters
    ----------
    texts : iterable of str
    n : int, default 3
        Words or characters per shingle, up to 1024.
    unit : {"words", "characters"}, default "words"
    n_threads : int, optional

    Returns
    -------
    indptr : int64 (len(texts) + 1,)
    indices : uint64 (indptr[-1],)
        The shingles of text i are ``indices[indptr[i]:indptr[i + 1]]``, in the order of the text.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.

    Examples
    --------
    >>> import fpq
    >>> indptr, indices = fpq.minhash.shingles(["a rose is a rose", "is a rose"], n=2)
    >>> indptr.tolist(), int(indices[2] == indices[4]), int(indices[3] == indices[5])
    ([0, 4, 6], 1, 1)
    """
    n, count = _checks.integer("n", n, 1, MOST_UNITS), threads.resolve(n_threads)
    words = _checks.choice("unit", unit, ("words", "characters")) == "words"
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
        raise TypeError(f"texts: expected a list of strings, got {type(texts).__name__}")
    held = list(texts)
    at, sizes = np.empty(len(held), np.uintp), np.empty(len(held), np.int64)
    indptr = np.zeros(len(held) + 1, np.int64)
    if not held:
        return indptr, np.empty(0, np.uint64)
    _native.locate_texts(held, at, sizes)
    _native.shingle_counts(at, sizes, n, words, indptr[1:], count)
    np.cumsum(indptr, out=indptr)
    indices = np.empty(int(indptr[-1]), np.uint64)
    _native.shingles(at, sizes, n, words, indptr, indices, count)
    return indptr, indices


def duplicates(
    sets: SetsLike,
    threshold: float = 0.8,
    *,
    exact: bool = True,
    n_hashes: int = 128,
    bands: tuple[int, int] | None = None,
    seed: int = 0,
    n_threads: int | None = None,
) -> Pairs:
    """All pairs of sets with a Jaccard similarity of at least `threshold`, but for those that MinHash misses.

    Pairs that have a band in common are compared (`fpq.MinHashIndex`): a pair at the threshold with a probability of at
    least 0.95, a more similar one with a higher probability. The bands are handled in groups of 8. Memory beyond the
    sets and the pairs: per set 4 bytes per band and 70 bytes, and 8 bytes per item, or `n_hashes` bytes per set if
    `exact` is False. Empty sets are in no pair. The result does not depend on the number of threads.

    Parameters
    ----------
    sets
        As in `fpq.MinHashIndex.add`, such as the result of `shingles`.
    threshold : float, default 0.8
        The smallest similarity, above 0, at most 1.
    exact : bool, default True
        True: similarities are exact. False: they are estimated from signatures of 8 bits per hash function, which takes
        less time if sets have several hundred items.
    n_hashes, bands, seed
        As in `fpq.MinHashIndex`.
    n_threads : int, optional

    Returns
    -------
    Pairs
        ``pairs, similarities``

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.

    Examples
    --------
    >>> import fpq
    >>> pairs, similarities = fpq.minhash.duplicates([[1, 2, 3, 4], [7], [1, 2, 3], [7]], threshold=0.7)
    >>> pairs.tolist(), similarities.tolist()
    ([[0, 2], [1, 3]], [0.75, 1.0])
    """
    threshold, count = banding.similarity("threshold", threshold), threads.resolve(n_threads)
    n_hashes = banding.hash_count("n_hashes", n_hashes)
    shape = banding.chosen(threshold, n_hashes) if bands is None else banding.given(bands, n_hashes)
    exact, seed = _settings.flag("exact", exact), _settings.seed("seed", seed)
    x = checked(sets)
    if len(x) > MOST_SETS:
        raise ValueError(f"sets: expected at most {MOST_SETS}, got {len(x)}")
    rows = np.flatnonzero(x.sizes)
    if len(rows) < 2:
        return Pairs(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    x = x if len(rows) == len(x) else gathered(x.items, x.first[rows], x.sizes[rows])
    x = x.ordered(count) if exact else x
    hashes = banding.functions(n_hashes, shape, 8, seed)
    signatures = None if exact else np.empty((len(x), n_hashes), np.uint8)
    keys = banding.signed(hashes, x, signatures, count)
    numbers, similarities = _compared(hashes, signatures, x, keys, threshold, count)
    order = np.argsort(numbers)
    numbers = numbers[order]
    return Pairs(rows[np.stack([numbers >> 32, numbers & 0xFFFFFFFF], axis=1)], similarities[order])


def _compared(
    hashes: _native.MinHash, signatures: UInt8 | None, sets: Sets, keys: UInt32, threshold: float, n_threads: int
) -> tuple[Int64, Float32]:
    """The similar pairs i < j of all bands, as i << 32 | j."""
    found: list[tuple[Int64, Float32]] = []
    n, n_bands = keys.shape
    parts, bits = -(-n // _native.PAIR_BATCH), directory_bits(n)
    entries = np.empty((BANDS_AT_A_TIME, n), np.uint64)
    starts = np.empty((BANDS_AT_A_TIME, (1 << bits) + 1), np.uint32)
    for band in range(0, n_bands, BANDS_AT_A_TIME):
        tables = entries[: n_bands - band]
        _native.minhash_tables(keys, band, 0, bits, tables, starts, n_threads)
        counts = np.empty(len(tables) * parts, np.int64)
        answers = _native.Within(len(counts), -threshold)
        hashes.pairs(signatures, sets.first, sets.items, keys, band, tables, answers, n_threads)
        answers.counts(counts)
        distances, numbers = np.empty(counts.sum(), np.float32), np.empty(counts.sum(), np.int64)
        answers.copy(distances, numbers)
        found.append((numbers, -distances))
    return np.concatenate([each[0] for each in found]), np.concatenate([each[1] for each in found])


def clusters(pairs: ArrayLike, n: int) -> Int64:
    """The cluster of each of n sets: sets that chains of pairs connect are in one cluster.

    Parameters
    ----------
    pairs : int array (n_pairs, 2)
        Such as the first result of `duplicates`.
    n : int
        The number of sets.

    Returns
    -------
    int64 (n,)
        The lowest number of a set of the same cluster: sets whose cluster is their own number are those to keep if
        near-duplicates are to be dropped.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.

    Examples
    --------
    >>> import fpq
    >>> fpq.minhash.clusters([[0, 2], [2, 4], [1, 3]], n=6).tolist()
    [0, 1, 0, 1, 0, 5]
    """
    n = _checks.integer("n", n, 0)
    edges = _checks.integers("pairs", pairs)
    if edges.size == 0:
        return np.arange(n, dtype=np.int64)
    if edges.ndim != 2 or edges.shape[1] != 2:
        raise ValueError(f"pairs: expected shape (n_pairs, 2), got {edges.shape}")
    if edges.min() < 0 or edges.max() >= n:
        raise ValueError(f"pairs: expected numbers from 0 to {n - 1}, got {edges.min()} to {edges.max()}")
    lowest = np.arange(n, dtype=np.int64)
    while True:  # roots take the lowest root that a pair connects them with, then all sets their root
        a, b = lowest[edges].T
        if np.array_equal(a, b):
            return lowest
        np.minimum.at(lowest, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(lowest, lowest[lowest]):
            lowest = lowest[lowest]
