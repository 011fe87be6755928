"""Documents and queries of many token vectors, as users pass them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native
from fpq._checks import Array, Int64

DocumentsLike: TypeAlias = ArrayLike | Sequence[ArrayLike]


@dataclass(frozen=True)
class Documents:
    """Checked tokens, one document after the other; document i has the tokens first[i] to first[i + 1] - 1.

    Attributes
    ----------
    tokens : array (n_tokens, d)
    first : int64 (n + 1,)
    """

    tokens: Array
    first: Int64

    def __len__(self) -> int:
        return len(self.first) - 1

    def part(self, start: int, stop: int) -> Documents:
        """The documents from `start` to `stop` - 1."""
        first = self.first[start : stop + 1]
        return Documents(self.tokens[first[0] : first[-1]], first - first[0])


def documents(x: Any, lengths: Any, dim: int | None, n_threads: int) -> Documents:
    """Check arrays (t_i, d), an array (n, t, d), or an array (n_tokens, d) with the number of tokens of each document.

    Raises
    ------
    ValueError, TypeError
        If `x` or `lengths` are not as described, a document has no token, or a number is not finite as float32.
    """
    if lengths is not None:
        tokens = _checks.numbers("documents", x)
        return _finite("documents", tokens, _counts(lengths, tokens), dim, n_threads)
    if is_list(x):
        return _joined("documents", x, dim, n_threads)
    array = _checks.numbers("documents", x)
    if array.ndim != 3 and array.shape != (0,):
        hint = ": give lengths, the number of tokens of each document" if array.ndim == 2 else ""
        raise ValueError(
            "documents: expected a list of arrays (tokens, d) or an array (n, tokens, d), "
            f"got shape {array.shape}{hint}"
        )
    return _even("documents", array, dim, n_threads)


def queries(x: Any, dim: int, n_threads: int) -> tuple[Documents, bool]:
    """Check one query (t, d), a list of queries (t_i, d) or an array (nq, t, d); and whether `x` is a single query."""
    if is_list(x):
        return _joined("Q", x, dim, n_threads), False
    array = _checks.numbers("Q", x)
    if array.ndim not in (2, 3) and array.shape != (0,):
        raise ValueError(
            f"Q: expected one query (tokens, d), a list of them, or an array (nq, tokens, d), got shape {array.shape}"
        )
    return _even("Q", array[None] if array.ndim == 2 else array, dim, n_threads), array.ndim == 2


def is_list(x: Any) -> bool:
    """Whether `x` is a list of matrices, and not of rows."""
    if not isinstance(x, (list, tuple)) or not x:
        return False
    ndim = getattr(x[0], "ndim", None)
    if ndim is None:
        return isinstance(x[0], (list, tuple)) and bool(x[0]) and hasattr(x[0][0], "__len__")
    return bool(ndim != 1)


def _joined(name: str, x: Any, dim: int | None, n_threads: int) -> Documents:
    matrices = [_checks.numbers(f"{name}[{i}]", each) for i, each in enumerate(x)]
    for i, each in enumerate(matrices):
        if each.ndim != 2 or each.shape[1] != matrices[0].shape[1]:
            width = matrices[0].shape[1] if matrices[0].ndim == 2 else "d"
            raise ValueError(f"{name}[{i}]: expected an array (tokens, {width}), got shape {each.shape}")
    counts = np.array([len(each) for each in matrices], np.int64)
    return _finite(name, _checks.numbers(name, np.concatenate(matrices)), counts, dim, n_threads)


def _even(name: str, array: Array, dim: int | None, n_threads: int) -> Documents:
    """Documents of equally many tokens."""
    n, t, d = array.shape if array.ndim == 3 else (0, 1, dim or 1)
    return _finite(name, array.reshape(n * t, d), np.full(n, t, np.int64), dim, n_threads)


def _counts(lengths: Any, tokens: Array) -> Int64:
    counts = _checks.integers("lengths", lengths)
    if counts.ndim != 1:
        raise ValueError(f"lengths: expected a 1-d array, got shape {counts.shape}")
    if (counts < 0).any() or counts.sum() != len(tokens):
        raise ValueError(f"lengths: expected numbers that add up to the {len(tokens)} tokens, got {counts.sum()}")
    return counts


def _finite(name: str, tokens: Array, counts: Int64, dim: int | None, n_threads: int) -> Documents:
    if not counts.all():
        raise ValueError(f"{name}: expected at least one token in each, got none in number {np.argmin(counts)}")
    if tokens.ndim != 2 or not tokens.shape[1]:
        raise ValueError(f"{name}: expected tokens of at least one dimension, got shape {tokens.shape}")
    if dim is not None and tokens.shape[1] != dim:
        raise ValueError(f"{name}: expected tokens of dimension {dim}, got dimension {tokens.shape[1]}")
    first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    row = _native.first_nonfinite_row(tokens, n_threads)
    if row >= 0:
        number = int(np.searchsorted(first, row, side="right")) - 1
        raise ValueError(
            f"{name}: expected numbers that are finite as float32, got NaN or infinity in token {row - first[number]} "
            f"of number {number}"
        )
    return Documents(tokens, first)
