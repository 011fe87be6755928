"""Any sequence of calls leaves an index in the state of a plain dict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import fpq

D, M, NBITS = 5, 3, 3
RNG = np.random.default_rng(0)
TRAINING = RNG.integers(0, 4, (64, D)).astype(np.float32)
IDS = st.lists(st.one_of(st.integers(0, 150), st.integers(1000, 1003)), max_size=70)
ALLOWED = st.one_of(st.none(), IDS, st.integers(0, 2**32))  # a number is the seed of a mask


def numbers(seed: int, n: int) -> np.ndarray:
    """Rows of small integers: distances are exact and there are many ties."""
    return np.random.default_rng(seed).integers(0, 4, (n, D)).astype(np.float32)


class Indexes(RuleBasedStateMachine):
    """A flat, a PQ and an IVFPQ index with the same vectors and dicts from ids to vectors and to codes.

    Without residuals the lists, all of them probed, hold the codes of the PQ index.
    """

    @initialize(
        metric=st.sampled_from(["l2", "ip"]),
        rotation=st.sampled_from([None, "pca"]),
        open_indexing=st.sampled_from([None, 1.0]),
    )
    def start(self, metric: str, rotation: str | None, open_indexing: float | None) -> None:
        self.sign = 1 if metric == "l2" else -1
        self.flat = fpq.FlatIndex(metric, n_threads=1)
        options: dict[str, Any] = {
            "metric": metric, "rotation": rotation, "open_indexing": open_indexing, "keep_vectors": True,
        }  # fmt: skip
        self.pq = fpq.PQIndex(M, nbits=NBITS, **options, n_threads=1)
        self.pq.quantizer.init = "random"  # as in an IVFPQIndex, so that both have the same codebooks
        self.pq.fit(TRAINING)
        self.ivf = fpq.IVFPQIndex(4, M, nbits=NBITS, residual=False, list_capacity=1.2, **options, n_threads=1).fit(
            TRAINING
        )
        self.vectors: dict[int, np.ndarray] = {}
        self.codes: dict[int, np.ndarray] = {}
        self.next_id = 0

    @property
    def indexes(self) -> list[Any]:
        return [self.flat, self.pq, self.ivf]

    def scores(self, queries: np.ndarray, ids: list[int]) -> list[np.ndarray]:
        """What the indexes sort by, (nq, len(ids)) each."""
        rows = np.array([self.vectors[i] for i in ids]).reshape(-1, D)
        exact = ((queries[:, None] - rows) ** 2).sum(2) if self.sign == 1 else -(queries @ rows.T)
        sums = np.zeros(exact.shape, np.float32)
        codes = np.array([self.codes[i] for i in ids], np.uint8).reshape(-1, self.pq.quantizer.code_size)
        bits = np.unpackbits(codes, axis=1, bitorder="little")
        for j, table in enumerate(self.tables(queries)):
            sums += table[:, bits[:, j * NBITS : (j + 1) * NBITS] @ [1, 2, 4]]
        return [exact, sums, sums]

    def tables(self, queries: np.ndarray) -> np.ndarray:
        """Distances, or negated inner products, of sub-vectors and centroids (m, nq, k)."""
        pq = self.pq.quantizer
        if self.sign == 1:
            return pq.distance_table(queries).transpose(1, 0, 2)
        rotated, out = pq.rotate(queries, 1), np.zeros((M, len(queries), 1 << NBITS), np.float32)
        for j in range(M):
            for t, dimension in enumerate(range(pq.offsets[j], pq.offsets[j + 1])):
                out[j] += rotated[:, dimension, None] * pq.codebooks[j, :, t]
        return -out

    def pick(self, allowed: Any) -> tuple[Any, list[int]]:
        """What to pass as `allowed`, and the ids that it lets through."""
        if isinstance(allowed, int):
            mask = np.random.default_rng(allowed).random(max(self.vectors, default=0) + 1) < 0.4
            return mask, [i for i in self.vectors if mask[i]]
        return allowed, [i for i in self.vectors if allowed is None or i in allowed]

    @rule(seed=st.integers(0, 2**32), n=st.sampled_from([0, 1, 3, 64, 90]))
    def add(self, seed: int, n: int) -> None:
        self.added(numbers(seed, n), None, range(self.next_id, self.next_id + n))

    @rule(seed=st.integers(0, 2**32), ids=IDS)
    def add_with_ids(self, seed: int, ids: list[int]) -> None:
        self.added(numbers(seed, len(ids)), ids, ids)

    def added(self, rows: np.ndarray, ids: list[int] | None, names: Any) -> None:
        if len(set(names)) < len(names) or self.vectors.keys() & set(names):
            for index in self.indexes:
                with pytest.raises(ValueError, match=r"^ids: "):
                    index.add(rows, ids)
            return
        for index in self.indexes:
            index.add(rows, ids)
        self.vectors.update(zip(names, rows, strict=True))
        new = self.pq.codes[len(self.pq) - len(rows) :]
        self.codes.update(zip(self.pq.ids[len(self.pq) - len(rows) :].tolist(), new, strict=True))
        self.next_id = max([self.next_id, *(i + 1 for i in names)])

    @rule(ids=IDS, all_but=st.booleans())
    def remove(self, ids: list[int], all_but: bool) -> None:
        gone = [i for i in self.vectors if i not in ids] if all_but else ids
        expected = len(self.vectors.keys() & set(gone))
        for index in self.indexes:
            assert index.remove(gone) == expected
        for i in gone:
            self.vectors.pop(i, None)
            self.codes.pop(i, None)

    @rule(seed=st.integers(0, 2**32), nq=st.sampled_from([0, 1, 5]), k=st.sampled_from([1, 3, 100]), allowed=ALLOWED)
    def search(self, seed: int, nq: int, k: int, allowed: Any) -> None:
        queries = numbers(seed, nq)
        argument, ids = self.pick(allowed)
        for index, scores in zip(self.indexes, self.scores(queries, ids), strict=True):
            found = index.search(queries, k, allowed=argument)
            self.same(found, scores, ids, k)
        for index in (self.pq, self.ivf):
            reranked = index.search(queries, k, rerank=300, allowed=argument)
            self.same(reranked, self.scores(queries, ids)[0], ids, k)

    def same(self, found: fpq.SearchResult, scores: np.ndarray, ids: list[int], k: int) -> None:
        assert found.ids.shape == found.distances.shape == (len(scores), k)
        for row, distances, names in zip(scores, found.distances, found.ids, strict=True):
            order = np.lexsort((ids, row))[:k]
            missing = k - len(order)
            assert names.tolist() == [ids[i] for i in order] + [-1] * missing
            assert (self.sign * distances).tolist() == [*row[order], *[np.inf] * missing]

    @rule(seed=st.integers(0, 2**32), radius=st.integers(0, 25), allowed=ALLOWED)
    def range_search(self, seed: int, radius: int, allowed: Any) -> None:
        queries = numbers(seed, 3)
        argument, ids = self.pick(allowed)
        for index, scores in zip(self.indexes, self.scores(queries, ids), strict=True):
            lims, distances, names = index.range_search(queries, radius, allowed=argument)
            for i, row in enumerate(scores):
                order = [j for j in np.lexsort((ids, row)) if row[j] <= radius * self.sign]
                assert names[lims[i] : lims[i + 1]].tolist() == [ids[j] for j in order]
                np.testing.assert_array_equal(distances[lims[i] : lims[i + 1]], self.sign * row[order])

    @rule(ids=IDS)
    def reconstruct(self, ids: list[int]) -> None:
        known = [i for i in ids if i in self.vectors]
        for index in self.indexes:
            if known:
                np.testing.assert_array_equal(index.reconstruct(known), [self.vectors[i] for i in known])
            if len(known) < len(ids):
                with pytest.raises(ValueError, match="expected ids in the index"):
                    index.reconstruct(ids)

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        for index in self.indexes:
            assert len(index) == len(self.vectors)
            assert sorted(index.ids) == sorted(self.vectors)
        if self.codes:
            np.testing.assert_array_equal(self.pq.codes, [self.codes[i] for i in self.pq.ids.tolist()])


class TestIndexes(Indexes.TestCase):
    settings = settings(max_examples=80, stateful_step_count=25, deadline=None, derandomize=True)
