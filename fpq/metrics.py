"""How good the neighbours are that were found.

Two numbers are both called "recall" in print, and they are far apart:

- `recall_at_k`: is the one *true nearest* neighbour among the first k results? This is R@k of the
  product quantization papers, also written 1-recall@k. R@100 is easy: 100 results for one answer.
- `intersection_at_k`: how many of the k true neighbours are among the first k results? This is
  k-recall@k, what ann-benchmarks plots, mostly as 10-recall@10.

The same index may well have R@100 = 0.99 and 10-recall@10 = 0.56, so say which one you mean.

`accuracy`, `confusion`, `recall`, `precision` and `fallout` judge predicted labels, and `vote`
makes one label of the labels of k neighbours. `approximation_ratio` compares distances.

Examples
--------
>>> ids = [[7, 3, 5], [2, 9, 4]]
>>> true_ids = [[3, 7, 8], [1, 2, 9]]
>>> recall_at_k(ids, true_ids)
0.5
>>> round(intersection_at_k(ids, true_ids), 3)
0.667
"""

import math
import operator
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
    "precision",
    "recall",
    "recall_at_k",
    "vote",
]

PIECE_VALUES = 1 << 20  # of an array that is sorted in pieces


def recall_at_k(ids: ArrayLike, true_ids: ArrayLike, k: int | None = None) -> float:
    """Share of queries whose true nearest neighbour is among the first `k` results (R@k).

    Parameters
    ----------
    ids : array_like, shape (nq, r), integer
        Returned ids below 2**63, best first; -1 marks a missing result and never counts.
    true_ids : array_like, shape (nq,) or (nq, t), integer
        Ids of the true neighbours, nearest first; only the first column is used.
    k : int, optional
        How many results to look at, 1 <= k <= r; by default all r.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    TypeError
        If the ids are not integers, or `k` is not an integer.
    ValueError
        If the shapes do not fit each other, there is no query, `k` is out of range, or ids are masked or from 2**63 on.

    Notes
    -----
    The measure of Jegou, Douze and Schmid, "Product quantization for nearest neighbor search",
    IEEE TPAMI 33(1), 2011.

    Examples
    --------
    >>> recall_at_k([[7, 3, 5], [2, 9, 4]], [3, 2], k=1)
    0.5
    >>> recall_at_k([[7, 3, 5], [2, 9, 4]], [3, 2], k=2)
    1.0
    """
    found = _ids(ids, "ids")
    truth = _ids(true_ids, "true_ids", columns=True)
    _same_queries(found, truth)
    nearest = truth[:, :1]
    hits = (found[:, : _depth(k, found)] == nearest) & (nearest >= 0)
    return float(hits.any(axis=1).mean())


def intersection_at_k(ids: ArrayLike, true_ids: ArrayLike, k: int | None = None) -> float:
    """Mean share of the `k` true neighbours among the first `k` results (k-recall@k).

    Parameters
    ----------
    ids : array_like, shape (nq, r), integer
        Returned ids below 2**63, best first; -1 marks a missing result and never counts. An id that is
        returned twice counts once.
    true_ids : array_like, shape (nq, t), integer
        Ids of the true neighbours, nearest first.
    k : int, optional
        How many columns of both to look at, 1 <= k <= min(r, t); by default r.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    TypeError
        If the ids are not integers, or `k` is not an integer.
    ValueError
        If the shapes do not fit each other, there is no query, `k` is out of range, or ids are masked or from 2**63 on.

    Notes
    -----
    Aumuller, Bernhardsson and Faithfull, "ANN-Benchmarks", Information Systems 87, 2020. That
    program compares distances, so there a neighbour exactly as far as the k-th counts as well;
    here ids are compared.

    Examples
    --------
    >>> intersection_at_k([[7, 3, 5, -1]], [[3, 7, 8, 9]], k=2)
    1.0
    >>> intersection_at_k([[7, 3, 5, -1]], [[3, 7, 8, 9]])
    0.5
    """
    found, truth = _ids(ids, "ids"), _ids(true_ids, "true_ids")
    _same_queries(found, truth)
    k = _depth(k, found)
    if k > truth.shape[1]:
        raise ValueError(f"true_ids must have at least k={k} columns, got {truth.shape[1]}")
    shared = 0
    for rows in _pieces(found):
        both = np.hstack([_distinct(found[rows, :k]), _distinct(truth[rows, :k])])
        both.sort(axis=1)
        shared += int(np.count_nonzero((both[:, 1:] == both[:, :-1]) & (both[:, 1:] >= 0)))
    return shared / (k * len(found))


def vote(labels: ArrayLike) -> NDArray[Any]:
    """Majority label of each query's neighbours; of tied labels the one seen nearest wins.

    Parameters
    ----------
    labels : array_like, shape (nq, k)
        Labels of the neighbours, nearest first: usually ``base_labels[ids]`` (see that no id
        is -1, numpy would take the last label for it).

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
        raise ValueError(f"labels must have shape (nq, k) with k >= 1, got {labels.shape}")
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
    """Share of predicted labels that are right.

    Parameters
    ----------
    predicted, truth : array_like, shape (n,)
        Labels of any kind that can be compared.

    Returns
    -------
    float
        Between 0 and 1; nan when there are no labels.

    Raises
    ------
    ValueError
        If the two are not 1-d and of one length.

    Examples
    --------
    >>> accuracy([1, 2, 3, 3], [1, 2, 3, 4])
    0.75
    """
    predicted, truth = _labels(predicted, truth)
    return _share(int(np.count_nonzero(predicted == truth)), len(truth))


class Confusion(NamedTuple):
    """Counts of a yes/no decision, made by `confusion`.

    Attributes
    ----------
    tp, fp, fn, tn : int
        True positives, false positives, false negatives and true negatives.
    """

    tp: int
    fp: int
    fn: int
    tn: int


def confusion(predicted: ArrayLike, truth: ArrayLike, positive: Any) -> Confusion:
    """Count hits and errors for one label against all others.

    Parameters
    ----------
    predicted, truth : array_like, shape (n,)
        Labels of any kind that can be compared.
    positive : scalar
        The label that means "positive"; every other label is negative.

    Returns
    -------
    Confusion

    Raises
    ------
    ValueError
        If the two are not 1-d and of one length, or `positive` is not a scalar.

    Examples
    --------
    >>> confusion([0, 0, 1, 2], [0, 1, 0, 2], positive=0)
    Confusion(tp=1, fp=1, fn=1, tn=1)
    """
    predicted, truth = _labels(predicted, truth)
    if np.ndim(positive) != 0 or positive is np.ma.masked:
        raise ValueError(f"positive must be one label, got {positive!r}")
    said, true = predicted == positive, truth == positive
    tp = int(np.count_nonzero(said & true))
    fp = int(np.count_nonzero(said)) - tp
    fn = int(np.count_nonzero(true)) - tp
    return Confusion(tp, fp, fn, len(truth) - tp - fp - fn)


def recall(predicted: ArrayLike, truth: ArrayLike, positive: Any) -> float:
    """Share of the positives that were predicted positive, tp / (tp + fn).

    Parameters and errors are those of `confusion`; nan when no label is truly positive.

    Examples
    --------
    >>> recall([0, 1, 1], [0, 0, 1], positive=0)
    0.5
    """
    c = confusion(predicted, truth, positive)
    return _share(c.tp, c.tp + c.fn)


def precision(predicted: ArrayLike, truth: ArrayLike, positive: Any) -> float:
    """Share of the predicted positives that are positive, tp / (tp + fp).

    Parameters and errors are those of `confusion`; nan when nothing was predicted positive.

    Examples
    --------
    >>> precision([0, 1, 1], [0, 0, 1], positive=1)
    0.5
    """
    c = confusion(predicted, truth, positive)
    return _share(c.tp, c.tp + c.fp)


def fallout(predicted: ArrayLike, truth: ArrayLike, positive: Any) -> float:
    """Share of the negatives that were predicted positive, fp / (fp + tn).

    Parameters and errors are those of `confusion`; nan when no label is truly negative.

    Examples
    --------
    >>> fallout([0, 0, 1], [0, 1, 1], positive=0)
    0.5
    """
    c = confusion(predicted, truth, positive)
    return _share(c.fp, c.fp + c.tn)


def approximation_ratio(distances: ArrayLike, true_distances: ArrayLike) -> float:
    """Mean ratio of returned to true distance, the c of c-approximate search.

    Parameters
    ----------
    distances : array_like, shape (nq, k), float
        *Squared* L2 distances of the results, nearest first; inf marks a missing result. Pass
        exact distances: those estimated from codes may make the ratio smaller than 1.
    true_distances : array_like, shape (nq, k), float
        *Squared* L2 distances of the true neighbours, nearest first, all finite.

    Returns
    -------
    float
        Mean of ``sqrt(distances / true_distances)`` over queries and ranks; 1 is exact search.
        0 / 0 counts as 1; x / 0 with x > 0, or any missing result, makes it inf.

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
            "distances and true_distances must have the same shape (nq, k), not empty, "
            f"got {found.shape} and {truth.shape}"
        )
    if not (found >= 0).all():
        raise ValueError("distances must be squared L2, got a negative value or nan")
    if not ((truth >= 0) & np.isfinite(truth)).all():
        raise ValueError("true_distances must be finite squared L2, got a negative value, inf or nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.sqrt(found) / np.sqrt(truth)
    ratio[(found == 0) & (truth == 0)] = 1.0
    return float(ratio.mean())


def _array(name: str, values: ArrayLike) -> NDArray[Any]:
    """The values as an array without masked entries. A list of integers that fit into no one type stays exact."""
    array = _checks.plain(name, values)
    exact = _checks.exact_integers(values) if array.dtype.kind == "f" and array.size else None
    return array if exact is None else exact


def _ids(ids: ArrayLike, name: str, columns: bool = False) -> NDArray[np.int64]:
    """Ids of shape (nq, r); `columns` takes (nq,) as (nq, 1)."""
    array = _array(name, ids)
    if columns and array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must be 2-d and not empty, got shape {array.shape}")
    if array.dtype.kind not in "iu" and _checks.exact_integers(array.tolist()) is None:
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.max() > np.iinfo(np.int64).max or array.min() < np.iinfo(np.int64).min:
        raise ValueError(f"{name} must be below 2**63, got {array.min()} to {array.max()}")
    return array.astype(np.int64, copy=False)


def _distances(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = _array(name, values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, got dtype {array.dtype}")
    return array.astype(np.float64, copy=False)


def _same_queries(found: NDArray[np.int64], truth: NDArray[np.int64]) -> None:
    if len(found) != len(truth):
        raise ValueError(f"ids and true_ids must have one row per query, got {len(found)} and {len(truth)} rows")


def _depth(k: int | None, found: NDArray[np.int64]) -> int:
    width: int = found.shape[1]
    if k is None:
        return width
    try:
        k = operator.index(k)
    except TypeError:
        raise TypeError(f"k must be an integer or None, got {k!r}") from None
    if not 1 <= k <= width:
        raise ValueError(f"k must be between 1 and {width} (the columns of ids), got {k}")
    return k


def _pieces(array: NDArray[Any]) -> Iterator[slice]:
    """Rows of some megabytes: NumPy sorts an array in one call, which no signal ends."""
    step = max(1, PIECE_VALUES // array.shape[1])
    return (slice(start, start + step) for start in range(0, len(array), step))


def _distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows sorted, with -1 in place of every repeated id."""
    ids = np.sort(ids, axis=1)
    repeated = ids[:, 1:] == ids[:, :-1]
    ids[:, 1:][repeated] = -1
    return ids


def _labels(predicted: ArrayLike, truth: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    predicted, truth = _array("predicted", predicted), _array("truth", truth)
    if predicted.ndim != 1 or predicted.shape != truth.shape:
        raise ValueError(
            f"predicted and truth must be 1-d and of one length, got shapes {predicted.shape} and {truth.shape}"
        )
    return predicted, truth


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
