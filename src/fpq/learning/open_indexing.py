"""OpenIndexing: capacity-limited codes, which spread rows over centroids as open addressing spreads keys over slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fpq import _checks, _native
from fpq._checks import Array, Float32, Int32, Int64
from fpq.learning.lloyd import LocalRows


@dataclass(frozen=True)
class OpenIndexing:
    """The policy of capacity-limited code assignment (FPQ paper, Algorithm 1).

    Rows are coded in row order. A row takes its nearest centroid unless the count of that centroid has reached the
    limit. Then the row tries the next nearest centroid, and so on. The last candidate is taken even if it is full.

    Parameters
    ----------
    c : float, default 1.5
        A centroid takes at most ``c`` times its equal share of the rows; at least 1.
    candidates : int, default 2
        Number of centroids that a row tries, nearest first; 2 in the paper. With all centroids as candidates, no count
        exceeds the limit (rounded up).
    scope : {"subspace", "shared"}, default "subspace"
        "subspace": one counter per centroid and subspace, limit ``c * n / k``. "shared", as printed in the paper: one
        counter per code, common to all subspaces, limit ``c * n * m / k``.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of the wrong type.

    Examples
    --------
    >>> import fpq
    >>> fpq.OpenIndexing(c=2.0).limit(n=1000, m=8, k=256)
    7.8125
    """

    c: float = 1.5
    candidates: int = 2
    scope: str = "subspace"

    def __post_init__(self) -> None:
        """Check the parameters."""
        object.__setattr__(self, "c", _checks.real("c", self.c, 1.0))
        object.__setattr__(self, "candidates", _checks.integer("candidates", self.candidates, 1))
        object.__setattr__(self, "scope", _checks.choice("scope", self.scope, ("subspace", "shared")))

    @classmethod
    def of(cls, policy: OpenIndexing | float | None) -> OpenIndexing | None:
        """The policy of an argument `open_indexing`: a number is ``c``, None is no limit."""
        if policy is None or isinstance(policy, cls):
            return policy
        return cls(c=_checks.real("open_indexing", policy, 1.0))

    def limit(self, n: int, m: int, k: int) -> float:
        """The count at which a centroid is full, for `n` rows, `m` subspaces and `k` centroids."""
        return self.c * n * (m if self.scope == "shared" else 1) / k

    def new_counts(self, m: int, k: int) -> Int64:
        """Counters at zero: int64 (m, k), or (1, k) in the shared scope."""
        return np.zeros((1 if self.scope == "shared" else m, k), dtype=np.int64)

    def _chosen(
        self, centroids: Float32, offsets: Int32, n_total: int, rows: LocalRows, counts: Int64, ids: Int32
    ) -> tuple[Int32, Int64]:
        """The ids (m, n) that rows choose instead of the nearest (n, m), and the counts; for rows in several places."""
        ids, counts = np.array(ids.T, order="C"), counts.copy()
        self.apply(centroids, offsets, rows.x, ids, counts, n_total, rows.n_threads, rows.rows)
        return ids, counts

    def apply(
        self,
        centroids: Float32,
        offsets: Int32,
        x: Array,
        ids: Int32,
        counts: Int64,
        n_total: int,
        n_threads: int,
        rows: Int64 | None = None,
    ) -> None:
        """Replace the nearest ids (m, n) of the rows of `x` by those within the limit, and update `counts`."""
        m, k, _ = centroids.shape
        _native.open_index(
            centroids, offsets, x, rows, self.limit(n_total, m, k), min(self.candidates, k),
            self.scope == "shared", ids, counts, n_threads,
        )  # fmt: skip
