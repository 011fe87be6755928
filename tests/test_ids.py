"""Ids of rows: numbered on from the largest ever used, 64 bits everywhere."""

from __future__ import annotations

import numpy as np
import pytest

import fpq

X = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)


def indexes() -> list[fpq.PQIndex | fpq.FlatIndex]:
    return [fpq.FlatIndex(), fpq.PQIndex(4, 4, keep_vectors=True).fit(X)]


def test_the_largest_id() -> None:
    last = np.iinfo(np.int64).max
    for index in indexes():
        index.add(X[:1], [last])
        assert index.search(X[0], 1).ids.tolist() == [last]
        with pytest.raises(ValueError, match=f"^ids: none left after {last}"):
            index.add(X[:1])
        assert index.add(X[:0]).add(X[1:2], [3]).ids.tolist() == [last, 3]
        assert index.remove([last]) == 1
        assert index.add(X[:1], [last]).ids.tolist() == [3, last]
