"""Adding, removing, searching, saving and loading in any order, beside a model in plain NumPy."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import fpq

D = 6
FIT = np.random.default_rng(0).normal(size=(200, D)).astype(np.float32)
SEEDS = st.integers(0, 1000)


class Model(RuleBasedStateMachine):
    """Rows by id; codes are compared through what they decode to."""

    @initialize(
        kind=st.sampled_from(["flat", "pq", "pq kept"]),
        metric=st.sampled_from(["l2", "ip", "cosine"]),
        open_indexing=st.sampled_from([None, 1.2]),
    )
    def start(self, kind: str, metric: str, open_indexing: float | None) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.metric = metric
        if kind == "flat":
            self.index: Any = fpq.FlatIndex(metric)
        else:
            options: dict[str, Any] = {"open_indexing": open_indexing, "keep_vectors": kind == "pq kept"}
            self.index = fpq.PQIndex(3, nbits=4, metric=metric, **options).fit(FIT)
        self.rows: dict[int, Any] = {}  # what the index decodes an id to
        self.next_id = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(n=st.integers(0, 70), seed=SEEDS, given_ids=st.booleans())
    def add(self, n: int, seed: int, given_ids: bool) -> None:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, D)).astype(np.float32)
        ids = None
        expected = np.arange(self.next_id, self.next_id + n)
        if given_ids:
            free = np.setdiff1d(np.arange(500), list(self.rows))
            ids = expected = rng.choice(free, min(n, len(free)), replace=False)
            x = x[: len(ids)]
        self.index.add(x, ids=ids)
        if len(expected):
            self.next_id = max(self.next_id, int(expected.max()) + 1)
        self.rows.update(zip(expected.tolist(), self.codes_of(expected), strict=True))
        if isinstance(self.index, fpq.FlatIndex) and len(x):
            lengths = np.linalg.norm(x, axis=1, keepdims=True) if self.metric == "cosine" else 1
            np.testing.assert_allclose(self.codes_of(expected), x / lengths, rtol=1e-5, atol=1e-6)

    def codes_of(self, ids: Any) -> Any:
        if isinstance(self.index, fpq.FlatIndex):
            return self.index.reconstruct(ids) if len(ids) else np.empty((0, D))
        at = {int(each): row for row, each in enumerate(self.index.ids)}
        codes = self.index.codes[np.array([at[int(each)] for each in ids], dtype=np.int64)]
        return self.index.quantizer.decode(codes)

    @rule(seed=SEEDS, share=st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    def remove(self, seed: int, share: float) -> None:
        rng = np.random.default_rng(seed)
        gone = [each for each in self.rows if rng.random() < share]
        assert self.index.remove([*gone, 10**6]) == len(gone)
        for each in gone:
            del self.rows[each]

    @rule(n=st.integers(0, 40), seed=SEEDS)
    def update(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, D)).astype(np.float32)
        ids = rng.choice(np.unique([*self.rows, *range(90)]), n, replace=False)
        twin = self.index.copy()
        assert self.index.update(x, ids) is self.index
        twin.remove(ids)
        twin.add(x, ids)
        if n:
            self.next_id = max(self.next_id, int(ids.max()) + 1)
        self.rows.update(zip(ids.tolist(), self.codes_of(ids), strict=True))
        for a, b in zip(self.index.search(FIT[:3], 9), twin.search(FIT[:3], 9), strict=True):
            np.testing.assert_array_equal(a, b)
        assert self.index._ids.next_id == twin._ids.next_id

    @rule(n=st.integers(0, 70), seed=SEEDS)
    def merge(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        free = np.setdiff1d(np.arange(500), list(self.rows))
        ids = rng.choice(free, n := min(n, len(free)), replace=False)
        other = self.index.copy().reset().add(rng.normal(size=(n, D)).astype(np.float32), ids)
        assert self.index.merge(other) is self.index
        mine, self.index = self.index, other
        expected = self.codes_of(ids)
        self.index = mine
        np.testing.assert_array_equal(self.codes_of(ids), expected)
        self.rows.update(zip(ids.tolist(), expected, strict=True))
        if n:
            self.next_id = max(self.next_id, int(ids.max()) + 1)

    @rule(rarely=st.integers(0, 5))
    def reset(self, rarely: int) -> None:
        if rarely == 0:
            assert self.index.reset() is self.index
            self.rows, self.next_id = {}, 0

    @rule(seed=SEEDS)
    def copy(self, seed: int) -> None:
        old = self.index
        self.index = old.copy()
        x = np.random.default_rng(seed).normal(size=(3, D))
        old.remove(old.ids[::2])  # no change of the old index shows in the copy
        old.add(x)

    @rule(seed=SEEDS, k=st.integers(1, 12), few=st.booleans())
    def search(self, seed: int, k: int, few: bool) -> None:
        rng = np.random.default_rng(seed)
        q = rng.normal(size=(3, D)).astype(np.float32)
        allowed = [each for each in self.rows if each % 3 == 0] if few else list(self.rows)
        found = self.index.search(q, k=k, allowed=allowed if few else None)
        n = min(k, len(allowed))
        assert (found.ids[:, n:] == -1).all() and np.isinf(found.distances[:, n:]).all()
        assert set(found.ids[:, :n].ravel().tolist()) <= set(allowed)
        if not n:
            return
        rows = np.array([self.rows[each] for each in allowed], np.float64)
        if self.metric == "cosine":
            q = q / np.linalg.norm(q, axis=1, keepdims=True)
        if self.metric == "l2":
            truth = np.sort(((q[:, None] - rows) ** 2).sum(-1), axis=1)[:, :n]
        else:
            truth = -np.sort(-(q @ rows.T), axis=1)[:, :n]
        np.testing.assert_allclose(found.distances[:, :n], truth, rtol=1e-4, atol=1e-4)

    @rule(how=st.sampled_from(["load", "pickle", "map"]))
    def save_and_load(self, how: str) -> None:
        path = Path(self.folder.name, "a")
        self.index.save(path)
        if how == "map":
            mapped = fpq.load(path, mmap=True)
            mapped.verify()
            q = FIT[:2]
            for a, b in zip(mapped.search(q), self.index.search(q), strict=True):
                np.testing.assert_array_equal(a, b)
        self.index = pickle.loads(pickle.dumps(self.index)) if how == "pickle" else fpq.load(path)

    @invariant()
    def ids_agree(self) -> None:
        if hasattr(self, "rows"):
            assert sorted(self.index.ids.tolist()) == sorted(self.rows) and len(self.index) == len(self.rows)
            assert all((number in self.index) == (number in self.rows) for number in (0, 7, 499, self.next_id))


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
