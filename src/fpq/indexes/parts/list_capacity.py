"""Rows that leave lists over their capacity: those that lose least move to their next nearest list."""

from __future__ import annotations

import math

import numpy as np

from fpq import _native
from fpq._arrays import take_rows
from fpq._checks import Array, Float32, Float64, Int32, Int64
from fpq.learning.kmeans import even_offsets, nearest_centroids
from fpq.learning.lloyd import Change

CHUNK_ROWS = 1 << 14  # rows that are prepared at a time
MOVES = 4  # the moves that are weighed, in multiples of the rows, before rows move in the order of their arrival


def list_limit(capacity: float, n: int, n_lists: int) -> int:
    """The maximum size of a list: ceil(capacity * n / n_lists), at most n."""
    return math.ceil(min(capacity, n_lists) * n / n_lists)


def move_to_room(
    labels: Int32, x: Array, prepare: Change, centroids: Float32, sizes: Int64, limit: int, n_threads: int
) -> None:
    """Change `labels`, the nearest list of each row of x, until no list grows beyond `limit`.

    In turns, each list over the limit gives away the rows for which the squared distance to the nearest open list is
    larger by the least; lower rows win ties. A list that was full once is closed, so it gives away rows only once.
    There is room for all rows: ``limit * n_lists`` is at least the number of rows in the lists and in x.
    """
    room = np.maximum(limit - sizes, 0)
    closed = np.zeros(len(room), bool)
    weighed = 0
    while True:
        counts = np.bincount(labels, minlength=len(room))
        closed |= counts >= room
        over = counts > room
        if not over.any():
            return
        rows = np.flatnonzero(over[labels])
        weighed += len(rows)
        nexts, losses = _next_lists(rows, labels, x, prepare, centroids, np.flatnonzero(~closed), n_threads)
        order = np.lexsort((losses, labels[rows]))
        lists = labels[rows[order]]
        moving = order[np.arange(len(lists)) - np.searchsorted(lists, lists) < (counts - room)[lists]]
        if weighed <= MOVES * len(labels):
            labels[rows[moving]] = nexts[moving]
        else:  # many equal rows go from list to list
            move_in_order(np.sort(rows[moving]), labels, x, prepare, centroids, sizes, limit, n_threads)
            return


def _next_lists(
    rows: Int64, labels: Int32, x: Array, prepare: Change, centroids: Float32, lists: Int64, n_threads: int
) -> tuple[Int32, Float64]:
    """The nearest of `lists` for each row, and by how much its squared distance is larger than that of the label."""
    nexts, losses = np.empty(len(rows), np.int32), np.empty(len(rows))
    choice = centroids[lists]
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = slice(start, start + CHUNK_ROWS)
        prepared = prepare(take_rows(x, rows[chunk], n_threads), n_threads)
        nexts[chunk] = lists[nearest_centroids(choice, prepared, n_threads)]
        losses[chunk] = squared_distances(prepared, centroids[nexts[chunk]])
        losses[chunk] -= squared_distances(prepared, centroids[labels[rows[chunk]]])
    return nexts, losses


def squared_distances(x: Array, centroids: Float32) -> Float64:
    """The squared distance of each row to the centroid of the same number, in double precision."""
    difference = np.subtract(x, centroids, dtype=np.float32)
    squared: Float64 = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    return squared


def move_in_order(
    rows: Int64, labels: Int32, x: Array, prepare: Change, centroids: Float32, sizes: Int64, limit: int, n_threads: int
) -> None:
    """Move these rows to their nearest lists with room, one after the other."""
    counts = sizes + np.bincount(np.delete(labels, rows), minlength=len(sizes))
    for start in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[start : start + CHUNK_ROWS]
        prepared = prepare(take_rows(x, chunk, n_threads), n_threads)
        found = labels[chunk][None]
        _native.open_index(
            centroids[None], even_offsets(x.shape[1], 1), prepared, None, limit, len(centroids), False, found,
            counts[None], n_threads,
        )  # fmt: skip
        labels[chunk] = found[0]
