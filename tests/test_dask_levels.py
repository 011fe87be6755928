"""Learning in levels, rotations and groups of rows on a cluster: the bits of one machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from test_dask import _at_an_odd_address as at_an_odd_address
from test_dask import same_learned

import fpq
import fpq.dask
from fpq import scaling
from fpq.dask import blocks, grouping, training
from fpq.indexes.parts import coarse, two_level
from fpq.learning import grouped_rows, rotation
from fpq.learning.lloyd import LocalRows

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(50, 12)) * 3
X = (CENTRES[RNG.integers(50, size=12_000)] + RNG.normal(size=(12_000, 12))).astype(np.float32)


@contextlib.contextmanager
def cluster(workers: int, threads: int = 1, **options: Any) -> Iterator[Any]:
    with (
        distributed.LocalCluster(workers, threads_per_worker=threads, dashboard_address=":0", **options) as made,
        distributed.Client(made, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module", params=[(2, 1), (3, 2)], ids=["2 workers", "6 threads"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with cluster(*request.param, processes=False) as client:
        yield client


@pytest.fixture
def two_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "LEAST_LISTS", 300)


def chunks(x: np.ndarray, rows: int) -> Any:
    return da.from_array(x, chunks=(rows, x.shape[1]))


def rows_of_groups(x: np.ndarray, sizes: np.ndarray, n_threads: int, numbers: np.ndarray) -> Any:
    ends = np.cumsum(sizes)
    return [(n, x[end - size : end].tolist()) for n, size, end in zip(numbers, sizes, ends, strict=True)]


def sums_of_chunks(rows: LocalRows, marks: np.ndarray) -> np.ndarray:
    return np.array([rows.block(chunk).sum() * marks[chunk].sum() for chunk in rows.blocks(256)])


def first_column(x: np.ndarray, n_threads: int) -> np.ndarray:
    return np.abs(x[:, 0] * 3).astype(np.int32) % 40


@pytest.mark.parametrize("rows", [700, 5000])
def test_groups_and_chunks_of_rows_are_those_of_one_machine(client: Any, rows: int, monkeypatch: Any) -> None:
    x = X[:3000]
    sampled = blocks.of(chunks(x, rows), client).sample(lambda block, info, rows: block[rows], parts_of(x, rows))
    for numbers in (None, RNG.permutation(3000)[:1111]):
        here, there = (made.sampled(numbers) for made in (LocalRows(x, None, 2), sampled))
        marks = RNG.normal(size=here.n)
        one, other = (np.concatenate(list(made.mapped(sums_of_chunks, 256, marks))) for made in (here, there))
        np.testing.assert_array_equal(one, other)
        monkeypatch.setattr(grouped_rows, "RANGE_ROWS", 100)
        groups = [made.grouped(first_column, 45) for made in (here, there)]
        np.testing.assert_array_equal(groups[0].sizes, groups[1].sizes)
        found = [list(itertools.chain(*group.run(rows_of_groups, np.arange(45)))) for group in groups]
        assert found[0] == found[1] and len(found[0]) == 45


def parts_of(x: np.ndarray, rows: int) -> list[np.ndarray]:
    return [np.arange(min(rows, len(x) - start)) for start in range(0, len(x), rows)]


@pytest.mark.usefixtures("two_levels")
@pytest.mark.parametrize("rows", [900, 5000])
@pytest.mark.parametrize(
    "options", [{}, {"metric": "ip"}, {"metric": "cosine", "residual": False}, {"list_capacity": 1.5}]
)
def test_many_lists(client: Any, rows: int, options: dict[str, Any]) -> None:
    one = fpq.IVFPQIndex(320, 4, nbits=4, **options).fit(X)
    assert one._coarse is not None and one._coarse._two_level is not None
    same_learned(fpq.dask.fit(fpq.IVFPQIndex(320, 4, nbits=4, **options), chunks(X, rows), client=client), one)


@pytest.mark.usefixtures("two_levels")
@pytest.mark.parametrize("power", [-120, 60])
def test_tiny_and_huge_numbers(client: Any, power: int) -> None:
    x = scaling.scaled(X, power)
    learned = fpq.dask.fit(fpq.IVFPQIndex(320, 4, nbits=4), chunks(x, 3000), client=client)
    same_learned(learned, fpq.IVFPQIndex(320, 4, nbits=4).fit(x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: fpq.PQIndex(4, nbits=4, rotation="pca"),
        lambda: fpq.PQIndex(4, nbits=4, rotation="opq", open_indexing=1.5, metric="cosine"),
        lambda: fpq.IVFPQIndex(30, 3, nbits=4, rotation="opq", rotation_dim=7, metric="ip", refine="sq4"),
        lambda: fpq.IVFPQIndex(30, 4, nbits=4, rotation="pca", open_indexing=1.2, list_capacity=1.3),
    ],
    ids=["pca", "opq", "opq of residuals", "limits"],
)
def test_rotations_and_limits(make: Callable[[], Any], client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "OPQ_ROUNDS", 2)
    x = (X * 20).clip(-127, 127).astype(np.int8)
    same_learned(fpq.dask.fit(make(), chunks(x, 1700), client=client), make().fit(x))
    monkeypatch.setattr(rotation, "SUM_BYTES", 1)  # of many blocks each
    same_learned(fpq.dask.fit(make(), chunks(X, 5000), client=client), make().fit(X))


def test_a_worker_is_killed_between_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "LEAST_LISTS", 300)
    run, runs = grouping.ClusterGroups.run, []

    def killing(*arguments: Any) -> Any:
        runs.append(arguments)
        if len(runs) == 2:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        return run(*arguments)

    monkeypatch.setattr(grouping.ClusterGroups, "run", killing)
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "3s")  # workers ask the dead one for rows
    with cluster(2) as client:
        learned = fpq.dask.fit(fpq.IVFPQIndex(320, 4, nbits=4), chunks(X, 2000), client=client)
    assert len(runs) == 3  # the cells, and two refinements
    same_learned(learned, fpq.IVFPQIndex(320, 4, nbits=4).fit(X))


def test_ranges_of_groups() -> None:
    sizes = np.array([0, 5, 3, 0, 20, 1, 1, 0])
    found = grouped_rows.ranges(sizes, 8)
    assert [(group.start, group.stop) for group, _ in found] == [(0, 4), (4, 5), (5, 8)]
    assert [(rows.start, rows.stop) for _, rows in found] == [(0, 8), (8, 28), (28, 30)]
    assert len(grouped_rows.ranges(np.zeros(3, np.int64), 8)) == 1
    found = grouped_rows.ranges(sizes, 8, 3)
    assert [(group.start, group.stop) for group, _ in found] == [(0, 3), (3, 6), (6, 8)]
    assert [(rows.start, rows.stop) for _, rows in found] == [(0, 8), (8, 29), (29, 30)]
    assert pickle.loads(pickle.dumps(grouping.Sorted(X[:2], sizes))).sizes.tolist() == sizes.tolist()


def test_parts_that_have_come_over_the_network() -> None:
    x = at_an_odd_address(X)
    made = two_level.TwoLevel(X[:400].copy(), 1)
    pickled = pickle.dumps(made.nearest)
    part = grouping.in_groups(pickled, x, 400)
    np.testing.assert_array_equal(part.sizes, np.bincount(made.nearest(X, 1), minlength=400))
    quantizer = coarse.CoarseQuantizer(X[:400].copy(), False, 1)
    found = training.on_run(pickle.dumps(quantizer._to_nearest), x)
    for lists, distances in found:
        np.testing.assert_array_equal(lists, quantizer.nearest(X, 1))
        assert distances.shape == (len(X),)
    pieces = [at_an_odd_address(part.x[i : i + 6000]) for i in (0, 6000)]
    whole = grouping.of_range(two_level._moved, [part.x], part.sizes[None], made.centroids)
    sizes = np.zeros((2, 400), np.int64)
    ends = np.cumsum(part.sizes)
    for half in (0, 1):
        sizes[half] = np.diff(np.clip(np.r_[0, ends] - 6000 * half, 0, 6000))
    moved = grouping.of_range(two_level._moved, pieces, sizes, at_an_odd_address(made.centroids))
    np.testing.assert_array_equal(moved, whole)
