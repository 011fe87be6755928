"""Measures of the quality of search results.

The literature calls two different numbers "recall":

- `recall_at_k`, ``recall@k``: the share of the k true neighbours among the k results. This is the measure of
  ann-benchmarks, hnswlib and usearch, and of fpq wherever it says "recall".
- `one_recall_at_k`, ``R@k``: the share of queries whose one *nearest* neighbour is among the k results. This is the
  measure of the papers on product quantization. ``R@100`` is easy to reach: 100 results for one answer.

The two are equal for k = 1. The same index may have ``R@100`` = 0.99 and ``recall@10`` = 0.56.

`accuracy`, `confusion`, `recall`, `precision` and `fallout` judge predicted labels; `vote` predicts a label from the
labels of k neighbours. `approximation_ratio` compares distances.

Examples
--------
>>> ids = [[7, 3, 5], [2, 9, 4]]
>>> true_ids = [[3, 7, 8], [1, 2, 9]]
>>> round(recall_at_k(ids, true_ids), 3)
0.667
>>> one_recall_at_k(ids, true_ids)
0.5
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpq import _checks

__all__ = [
    "Confusion",
    "accuracy",
    "approximation_ratio",
    "confusion",
    "fallout",
    "intersection_at_k",
    "one_recall_at_k",
    "precision",
    "recall",
    "recall_at_k",
    "vote",
]

PIECE_VALUES = 1 << 20  # values per call of NumPy: Python handles Ctrl-C between two calls


def recall_at_k(ids: ArrayLike, true_ids: ArrayLike, k: int | None = None) -> float:
    """Mean share of the `k` true neighbours among the first `k` results: ``recall@k``, also ``k-recall@k``.

    Parameters
    ----------
    ids : array_like, shape (nq, r), integer
        Returned ids below 2**63, best first; -1 marks a missing result and never counts. Repeated ids count once.
    true_ids : array_like, shape (nq, t), integer
        Ids of the true neighbours, nearest first.
    k : int, optional
        Number of columns of both arrays to compare, 1 <= k <= min(r, t). Default: r.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    TypeError
        If the ids are not integers, or `k` is not an integer.
    ValueError
        If the shapes do not fit together or are empty, `k` is out of range, or ids are masked or 2**63 or larger.

    Notes
    -----
    Aumuller, Bernhardsson and Faithfull, "ANN-Benchmarks", Information Systems 87, 2020. ANN-Benchmarks compares
    distances and accepts every neighbour at the distance of the k-th; this function compares ids.

    Examples
    --------
    >>> recall_at_k([[7, 3, 5, -1]], [[3, 7, 8, 9]], k=2)
    1.0
    >>> recall_at_k([[7, 3, 5, -1]], [[3, 7, 8, 9]])
    0.5
    """
    found, truth = _ids(ids, "ids"), _ids(true_ids, "true_ids", columns=True)
    _same_queries(found, truth)
    k = _depth(k, found)
    if k > truth.shape[1]:
        raise ValueError(
            f"true_ids: expected at least k={k} columns, got {truth.shape[1]}; one_recall_at_k (R@k) takes one column"
        )
    shared = 0
    for rows in _pieces(found):
        both = np.hstack([_distinct(found[rows, :k]), _distinct(truth[rows, :k])])
        both.sort(axis=1)
        shared += int(np.count_nonzero((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)))
    return shared / (k * len(found))


intersection_at_k = recall_at_k  # the former name


def one_recall_at_k(ids: ArrayLike, true_ids: ArrayLike, k: int | None = None) -> float:
    """Share of queries whose nearest neighbour is among the first `k` results: ``R@k``, also ``1-recall@k``.

    Parameters
    ----------
    ids : array_like, shape (nq, r), integer
        Returned ids below 2**63, best first; -1 marks a missing result and never counts.
    true_ids : array_like, shape (nq,) or (nq, t), integer
        Ids of the true neighbours, nearest first; only the first column is used.
    k : int, optional
        Number of results to compare, 1 <= k <= r. Default: r.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    TypeError
        If the ids are not integers, or `k` is not an integer.
    ValueError
        If the shapes do not fit together or are empty, `k` is out of range, or ids are masked or 2**63 or larger.

    Notes
    -----
    The measure of Jegou, Douze and Schmid, "Product quantization for nearest neighbor search", IEEE TPAMI 33(1), 2011.

    Examples
    --------
    >>> one_recall_at_k([[7, 3, 5], [2, 9, 4]], [3, 2], k=1)
    0.5
    >>> one_recall_at_k([[7, 3, 5], [2, 9, 4]], [3, 2], k=2)
    1.0
    """
    found = _ids(ids, "ids")
    truth = _ids(true_ids, "true_ids", columns=True)
    _same_queries(found, truth)
    nearest = truth[:, :1]
    hits = (found[:, : _depth(k, found)] == nearest) & (nearest >= 0)
    return float(hits.any(axis=1).mean())


def vote(labels: ArrayLike) -> NDArray[Any]:
    """Majority label of the neighbours of each query; a tie goes to the label of the nearer neighbour.

    Parameters
    ----------
    labels : array_like, shape (nq, k)
        Labels of the neighbours, nearest first: usually ``base_labels[ids]``. No id may be -1, for which NumPy would
        take the last label.

    Returns
    -------
    ndarray, shape (nq,), dtype of `labels`

    Raises
    ------
    ValueError
        If `labels` is not 2-d or k is 0.

    Examples
    --------
    >>> vote([[4, 9, 9], [4, 9, 1]]).tolist()
    [9, 4]
    """
    labels = _array("labels", labels)
    if labels.ndim != 2 or labels.shape[1] == 0:
        raise ValueError(f"labels: expected shape (nq, k) with k >= 1, got {labels.shape}")
    winners = labels[:, 0].copy()
    for rows in _pieces(labels):
        piece = labels[rows]
        values, codes = np.unique(piece, return_inverse=True)
        pairs = np.arange(len(piece))[:, None] * len(values) + codes.reshape(piece.shape)
        _, pair, count = np.unique(pairs, return_inverse=True, return_counts=True)
        winner = count[pair].reshape(piece.shape).argmax(axis=1)
        winners[rows] = np.take_along_axis(piece, winner[:, None], axis=1)[:, 0]
    return winners


def accuracy(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Share of correct predicted labels.

    Parameters
    ----------
    predicted, truth : array_like, shape (n,)
        Labels of any kind that can be compared.

    Returns
    -------
    float
        Between 0 and 1; nan for no labels.

    Raises
    ------
    ValueError
        If `predicted` and `truth` are not 1-d arrays of one length.

    Examples
    --------
    >>> accuracy([1, 2, 3, 3], [1, 2, 3, 4])
    0.75
    """
    predicted, truth = _labels(predicted, truth)
    return _share(int(np.count_nonzero(predicted == truth)), len(truth))


class Confusion(NamedTuple):
    """Counts of a binary decision, from `confusion`.

    Attributes
    ----------
    tp : int
        True positives.
    fp : int
        False positives.
    fn : int
        False negatives.
    tn : int
        True negatives.
    """

    tp: int
    fp: int
    fn: int
    tn: int


def confusion(predicted: ArrayLike, truth: ArrayLike, positive: Any) -> Confusion:
    """Count correct and wrong predictions of one label against all others.

    Parameters
    ----------
    predicted, truth : array_like, shape (n,)
        Labels of any kind that can be compared.
    positive : scalar
        The label that counts as positive; all other labels are negative.

    Returns
    -------
    Confusion

    Raises
    ------
    ValueError
        If `predicted` and `truth` are not 1-d arrays of one length, or `positive` is not a scalar.

    Examples
    --------
    >>> confusion([0, 0, 1, 2], [0, 1, 0, 2], positive=0)
    Confusion(tp=1, fp=1, fn=1, tn=1)
    """
    predicted, truth = _labels(predicted, truth)
    if np.ndim(positive) != 0 or positive is np.ma.masked:
        raise ValueError(f"positive: expected one label, got {positive!r}")
    claimed, true = predicted == positive, truth == positive
    tp = int(np.count_nonzero(claimed & true))
    fp = int(np.count_nonzero(claimed)) - tp
    fn = int(np.count_nonzero(true)) - tp
    return Confusion(tp, fp, fn, len(truth) - tp - fp - fn)


def recall(predicted: ArrayLike, truth: ArrayLike, positive: Any) -> float:
    """Share of the positives that were predicted positive, tp / (tp + fn).

    Parameters and errors are those of `confusion`; nan for truth without a positive.

    Examples
    --------
    >>> recall([0, 1, 1], [0, 0, 1], positive=0)
    0.5
    """
    c = confusion(predicted, truth, positive)
    return _share(c.tp, c.tp + c.fn)


def precision(predicted: ArrayLike, truth: ArrayLike, positive: Any) -> float:
    """Share of the predicted positives that are positive, tp / (tp + fp).

    Parameters and errors are those of `confusion`; nan for predictions without a positive.

    Examples
    --------
    >>> precision([0, 1, 1], [0, 0, 1], positive=1)
    0.5
    """
    c = confusion(predicted, truth, positive)
    return _share(c.tp, c.tp + c.fp)


def fallout(predicted: ArrayLike, truth: ArrayLike, positive: Any) -> float:
    """Share of the negatives that were predicted positive, fp / (fp + tn).

    Parameters and errors are those of `confusion`; nan for truth without a negative.

    Examples
    --------
    >>> fallout([0, 0, 1], [0, 1, 1], positive=0)
    0.5
    """
    c = confusion(predicted, truth, positive)
    return _share(c.fp, c.fp + c.tn)


def approximation_ratio(distances: ArrayLike, true_distances: ArrayLike) -> float:
    """Mean ratio of the returned to the true distance: the c of c-approximate search.

    Parameters
    ----------
    distances : array_like, shape (nq, k), float
        *Squared* L2 distances of the results, nearest first; inf marks a missing result. Expects exact distances: with
        distances estimated from codes the ratio may be below 1.
    true_distances : array_like, shape (nq, k), float
        *Squared* L2 distances of the true neighbours, nearest first, all finite.

    Returns
    -------
    float
        Mean of ``sqrt(distances / true_distances)`` over queries and ranks; 1 for exact search. 0 / 0 counts as 1. The
        mean is inf after x / 0 with x > 0, or with any missing result.

    Raises
    ------
    ValueError
        If the shapes differ or are empty, or a distance is negative or nan.

    Notes
    -----
    The "overall ratio" of Gan, Feng, Fang and Ng, "Locality-sensitive hashing scheme based on
    dynamic collision counting", SIGMOD 2012, averaged over queries.

    Examples
    --------
    >>> approximation_ratio([[4.0, 9.0]], [[1.0, 9.0]])
    1.5
    """
    found = _distances("distances", distances)
    truth = _distances("true_distances", true_distances)
    if found.ndim != 2 or found.shape != truth.shape or found.size == 0:
        raise ValueError(
            "distances, true_distances: expected arrays of one shape (nq, k), not empty, "
            f"got {found.shape} and {truth.shape}"
        )
    if not (found >= 0).all():
        raise ValueError("distances: expected squared L2 distances, got a negative value or nan")
    if not ((truth >= 0) & np.isfinite(truth)).all():
        raise ValueError("true_distances: expected finite squared L2 distances, got a negative value, inf or nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(found) / np.sqrt(truth)
    ratio[(found == 0) & (truth == 0)] = 1.0
    return float(ratio.mean())


def _array(name: str, values: ArrayLike) -> NDArray[Any]:
    """`values` as an array without masked entries; a list of integers without a common NumPy type stays exact."""
    array = _checks.plain(name, values)
    exact = _checks.exact_integers(values) if array.dtype.kind == "f" and array.size else None
    return array if exact is None else exact


def _ids(ids: ArrayLike, name: str, columns: bool = False) -> NDArray[np.int64]:
    """Ids of shape (nq, r); with `columns`, (nq,) becomes (nq, 1)."""
    array = _array(name, ids)
    if columns and array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name}: expected a 2-d array that is not empty, got shape {array.shape}")
    if array.dtype.kind not in "iu" and _checks.exact_integers(array.tolist()) is None:
        raise TypeError(f"{name}: expected integers, got dtype {array.dtype}")
    if array.max() > np.iinfo(np.int64).max or array.min() < np.iinfo(np.int64).min:
        raise ValueError(f"{name}: expected ids below 2**63, got {array.min()} to {array.max()}")
    return array.astype(np.int64, copy=False)


def _distances(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = _array(name, values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")
    return array.astype(np.float64, copy=False)


def _same_queries(found: NDArray[np.int64], truth: NDArray[np.int64]) -> None:
    if len(found) != len(truth):
        raise ValueError(f"ids, true_ids: expected one row per query in both, got {len(found)} and {len(truth)} rows")


def _depth(k: int | None, found: NDArray[np.int64]) -> int:
    width: int = found.shape[1]
    return width if k is None else _checks.integer("k", k, 1, width)


def _pieces(array: NDArray[Any]) -> Iterator[slice]:
    """Slices of some megabytes of rows: a call of NumPy cannot be interrupted."""
    step = max(1, PIECE_VALUES // array.shape[1])
    return (slice(start, start + step) for start in range(0, len(array), step))


def _distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted rows, with -1 for repeated ids."""
    ids = np.sort(ids, axis=1)
    repeated = ids[:, 1:] == ids[:, :-1]
    ids[:, 1:][repeated] = -1
    return ids


def _labels(predicted: ArrayLike, truth: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    predicted, truth = _array("predicted", predicted), _array("truth", truth)
    if predicted.ndim != 1 or predicted.shape != truth.shape:
        raise ValueError(
            f"predicted, truth: expected 1-d arrays of one length, got shapes {predicted.shape} and {truth.shape}"
        )
    return predicted, truth


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
