"""The kernels under every instruction set, through the module's own functions."""

from __future__ import annotations

import numpy as np
import pytest

import fpq
from fpq import _native


def exact_adc(index: fpq.PQIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The definition: float32 table sums in the order of the subspaces, sorted by distance, then id."""
    pq = index.quantizer
    tables = pq.distance_table(queries)
    sub_codes = np.empty((pq.m, len(index)), dtype=np.int32)
    _native.unpack_codes(index.codes, pq.nbits, sub_codes)
    sums = np.zeros((len(queries), len(index)), dtype=np.float32)
    for j in range(pq.m):
        sums += tables[:, j, sub_codes[j]]
    order = np.array([np.lexsort((index.ids, row))[:k] for row in sums])
    return np.take_along_axis(sums, order, 1), index.ids[order]


@pytest.mark.parametrize("nbits", range(1, 9))
@pytest.mark.parametrize(
    ("m", "n", "k"), [(1, 1, 1), (3, 63, 5), (8, 64, 64), (7, 65, 10), (16, 3000, 10), (33, 700, 100)]
)
def test_search_is_the_exact_adc_answer(isa: str, nbits: int, m: int, n: int, k: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.integers(0, 9, (n, 40)).astype(np.float32)  # small numbers: many ties
    index = fpq.PQIndex(m, nbits)
    index.fit(rng.integers(0, 9, (600, 40)).astype(np.float32)).add(x)
    queries = rng.integers(0, 9, (13, 40)).astype(np.float32)
    distances, ids = index.search(queries, k)
    expected_distances, expected_ids = exact_adc(index, queries, k)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(distances, expected_distances)


@pytest.mark.parametrize("k", [1, 16, 17, 64, 100, 256])
@pytest.mark.parametrize("d", [1, 5, 16, 98, 784])
def test_assignment_agrees_with_numpy(isa: str, k: int, d: int) -> None:
    rng = np.random.default_rng(d)
    x = rng.integers(0, 7, (101, d)).astype(np.uint8)
    centroids = rng.integers(0, 7, (1, k, d)).astype(np.float32)
    ids, errors = np.empty((1, len(x)), np.int32), np.empty((1, len(x)), np.float32)
    _native.assign(centroids, np.array([0, d], np.int32), x, None, ids, errors, 2)
    distances = ((x[:, None].astype(np.float64) - centroids) ** 2).sum(2)
    np.testing.assert_allclose(distances[np.arange(len(x)), ids[0]], distances.min(1), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(errors[0], distances.min(1), rtol=1e-4, atol=1e-2)


def test_same_bits_for_any_number_of_threads(isa: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(9000, 24)).astype(np.float32)
    answers = []
    for n_threads in (1, 2, 3, 1):
        index = fpq.PQIndex(6, rotation="opq", rotation_dim=20, open_indexing=1.2, n_threads=n_threads).fit(x).add(x)
        answers.append((index.quantizer.codebooks, index.codes, *index.search(x[:50], 7), *index.search(x[0], 7)))
    for answer in answers[1:]:
        for ours, first in zip(answer, answers[0], strict=True):
            np.testing.assert_array_equal(ours, first)
