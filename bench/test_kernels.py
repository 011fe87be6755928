"""The kernels under pytest-benchmark, on made-up data: `pytest bench`. Compare runs with its --benchmark-compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fpq

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark (extra bench)")

RNG = np.random.default_rng(0)
CENTRES = RNG.integers(0, 200, (500, 64))
ROWS = (CENTRES[RNG.integers(0, 500, 50_000)] + RNG.integers(0, 56, (50_000, 64))).astype(np.uint8)
QUERIES = ROWS[::250].astype(np.float32) + 1


@pytest.fixture(scope="module", params=[(16, 8), (32, 4)], ids=["8bit", "4bit"])
def index(request: Any) -> fpq.PQIndex:
    return fpq.PQIndex(*request.param).fit(ROWS[:20_000]).add(ROWS)


@pytest.mark.parametrize("m", [8, 16])
def test_train(benchmark: Any, m: int) -> None:
    benchmark(lambda: fpq.ProductQuantizer(m).fit(ROWS[:20_000]))


def test_coarse_kmeans(benchmark: Any) -> None:
    benchmark(lambda: fpq.KMeans(256, n_iter=10).fit(ROWS[:20_000]))


@pytest.mark.parametrize("rotation", ["pca", "opq"])
def test_rotation(benchmark: Any, rotation: str) -> None:
    benchmark(lambda: fpq.ProductQuantizer(8, rotation=rotation, n_iter=5).fit(ROWS[:10_000]))


def test_encode(benchmark: Any, index: fpq.PQIndex) -> None:
    benchmark(lambda: index.quantizer.encode(ROWS))


@pytest.mark.parametrize("k", [10, 100])
def test_search_batch(benchmark: Any, index: fpq.PQIndex, k: int) -> None:
    benchmark(lambda: index.search(QUERIES, k))


@pytest.mark.parametrize("k", [10, 100])
def test_search_single(benchmark: Any, index: fpq.PQIndex, k: int) -> None:
    benchmark(lambda: index.search(QUERIES[0], k))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_exact_search(benchmark: Any, dtype: Any) -> None:
    flat = fpq.FlatIndex().add(ROWS.astype(dtype))
    benchmark(lambda: flat.search(QUERIES, 10))


def test_inverted_lists(benchmark: Any) -> None:
    lists = fpq.IVFPQIndex(128, 16).fit(ROWS[:20_000]).add(ROWS)
    benchmark(lambda: lists.search(QUERIES, 10, n_probe=8))
