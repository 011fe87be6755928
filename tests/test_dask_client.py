"""Options whose rows stay with the workers: the bits of one machine, and what goes through the client."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from test_dask import same_learned
from test_dask_levels import cluster

import fpq
import fpq.dask
from fpq.dask import blocks, limited, training
from fpq.indexes.parts import coarse
from fpq.learning import anisotropic, rotation
from fpq.learning.lloyd import LocalRows, train_codebooks

da = pytest.importorskip("dask.array")

N, D = 9000, 12
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(40, D))[RNG.integers(40, size=N)] * 3 + RNG.normal(size=(N, D))).astype(np.float32)
ROWS = {"float32": X, "uint8": (X * 12 + 120).clip(0, 255).astype(np.uint8)}
UNEVEN = (37, 4100, 1, 2900, 1962)


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with cluster(request.param, processes=False) as client:
        yield client


@pytest.fixture
def rows(client: Any) -> str:
    """A type of rows for each client, which saves half of the time of all pairs."""
    return "uint8" if len(client.scheduler_info()["workers"]) == 1 else "float32"


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that went to the client."""
    numbers: list[int] = []
    take = training.ClusterRows.take

    def noted(self: Any, rows: Any) -> Any:
        found = take(self, rows)
        numbers.append(len(found))
        return found

    monkeypatch.setattr(training.ClusterRows, "take", noted)
    return numbers


def check(make: Callable[[], Any], rows: str, client: Any) -> None:
    chunks = da.from_array(ROWS[rows], chunks=(UNEVEN, D))
    same_learned(fpq.dask.fit(make(), chunks, client=client), make().fit(ROWS[rows]))


@pytest.mark.parametrize("options", [{}, {"rotation_dim": 8, "metric": "ip"}, {"metric": "cosine"}])
def test_local_rotations(client: Any, taken: list[int], rows: str, options: dict[str, Any]) -> None:
    check(lambda: fpq.IVFPQIndex(150, 4, nbits=4, local_rotations=True, **options), rows, client)
    assert max(taken) < 1024


def test_local_rotations_of_lists_of_two_levels(client: Any, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "LEAST_LISTS", 150)
    check(lambda: fpq.IVFPQIndex(150, 4, nbits=4, local_rotations=True), rows, client)


@pytest.mark.parametrize(("lists", "capacity"), [(30, 1.0), (30, 1.5), (200, 1.1)])
def test_list_capacity(client: Any, taken: list[int], rows: str, lists: int, capacity: float) -> None:
    check(lambda: fpq.IVFPQIndex(lists, 4, nbits=4, list_capacity=capacity), rows, client)
    assert max(taken) < 1024


def test_list_capacity_of_two_levels(client: Any, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "LEAST_LISTS", 300)
    check(lambda: fpq.IVFPQIndex(320, 4, nbits=4, list_capacity=1.2, metric="ip"), rows, client)


def test_a_capacity_in_several_subspaces(client: Any) -> None:
    """More than an index needs: empty clusters, subspaces that are finished, growing parts of the rows."""
    x = np.repeat(X[:600], 15, axis=0)
    sampled = blocks.of(da.from_array(x, chunks=(UNEVEN, D)), client).sample(_all_rows, [np.arange(n) for n in UNEVEN])
    offsets, start = np.array([0, 5, 12], np.int32), RNG.normal(size=(2, 20, 7)).astype(np.float32)
    start[:, 1] = start[:, 0]
    start[0, :, 5:] = 0
    for capacity in (1.0, 2.0):
        one, other = (
            train_codebooks(
                rows, offsets, start, n_iter=12, rng=np.random.default_rng(0), capacity=capacity, n_threads=2
            )
            for rows in (LocalRows(x, None, 2), sampled)
        )
        for expected, found in zip(one, other, strict=True):
            np.testing.assert_array_equal(expected, found)


def _all_rows(block: np.ndarray, info: Any, rows: np.ndarray) -> np.ndarray:
    return block[rows]


def test_a_worker_is_killed_between_limited_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = limited.LimitedSteps.sums, []

    def sums(*arguments: Any) -> Any:
        steps.append(step(*arguments))
        if len(steps) == 4:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        return steps[-1]

    monkeypatch.setattr(limited.LimitedSteps, "sums", sums)
    with cluster(2) as client:
        check(lambda: fpq.IVFPQIndex(20, 4, nbits=4, list_capacity=1.1, open_indexing=1.2), "float32", client)
    assert len(steps) > 5


@pytest.mark.parametrize("scope", ["subspace", "shared"])
def test_open_indexing(client: Any, taken: list[int], rows: str, scope: str) -> None:
    policy = fpq.OpenIndexing(1.1, 3, scope)
    check(lambda: fpq.PQIndex(4, nbits=4, open_indexing=policy), rows, client)
    check(lambda: fpq.IVFPQIndex(20, 4, nbits=4, open_indexing=policy, list_capacity=1.1), rows, client)
    assert max(taken) < 1024


@pytest.mark.parametrize(
    "make",
    [
        lambda: fpq.PQIndex(5, nbits=8, metric="cosine"),
        lambda: fpq.PQIndex(4, nbits=6, metric="ip", rotation="pca", rotation_dim=10),
        lambda: fpq.IVFPQIndex(20, 4, nbits=4, metric="ip"),
        lambda: fpq.IVFPQIndex(20, 4, nbits=4, metric="cosine", residual=False, anisotropy=2.0),
        lambda: fpq.IVFPQIndex(20, 4, nbits=4, metric="ip", local_rotations=True),
    ],
    ids=["cosine", "pca", "residuals", "vectors", "local rotations"],
)
def test_anisotropy(client: Any, taken: list[int], rows: str, make: Callable[[], Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(anisotropic, "STEP_ROWS", 1024)
    monkeypatch.setattr(rotation, "SUM_BYTES", 1 << 20)
    check(make, rows, client)
    assert max(taken) <= 4096  # the rows that the codebooks begin with


@pytest.mark.parametrize(
    "options", [{}, {"metric": "ip"}, {"metric": "cosine", "anisotropy": 1}, {"open_indexing": 1.2}]
)
def test_refinement_codes(client: Any, taken: list[int], rows: str, options: dict[str, Any]) -> None:
    check(lambda: fpq.PQIndex(5, nbits=6, refine="sq8", **options), rows, client)
    check(lambda: fpq.IVFPQIndex(20, 4, nbits=4, refine="sq4", **options), rows, client)
    assert max(taken) <= 1024


def test_refinement_codes_of_tiny_and_of_equal_rows(client: Any) -> None:
    for x in (X * np.float32(1e-30), np.repeat(X[:2], N // 2, axis=0)):
        made = [fpq.PQIndex(3, nbits=2, refine="sq6") for _ in range(2)]
        same_learned(fpq.dask.fit(made[0], da.from_array(x, chunks=(UNEVEN, D)), client=client), made[1].fit(x))
