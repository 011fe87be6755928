"""Parameters that `fit` chooses from the shape of the data."""

from __future__ import annotations

import math


def default_m(d: int) -> int:
    """The number of subquantizers for vectors of `d` dimensions, from which re-ranking reaches a recall of 0.95.

    Measured on GloVe (d = 50): with d / 8 codes, 1,280 re-ranked vectors are not enough; with d / 2, 200 are.
    """
    return max(min((d + 1) // 2, 25), d // 8)


def default_lists(n: int) -> int:
    """The number of lists for `n` vectors.

    At a recall of 0.95, 0.5 to 2 times the square root of n are about equally fast, and 4 times are no faster
    (bench/lists.py, SIFT, GloVe and MiniLM).
    """
    return max(1, min(n, int(1.5 * math.sqrt(n))))


def default_token_lists(n: int) -> int:
    """The number of lists for `n` tokens of documents.

    More than for vectors: centroids stand for tokens when documents are pruned, and each query reads all centroids.
    """
    return max(1, min(n, int(4 * math.sqrt(n))))
