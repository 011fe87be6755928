"""Options whose rows stay with the workers: the bits of one machine, and what goes through the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from test_dask import same_learned
from test_dask_levels import cluster

import fpq
import fpq.dask
from fpq.dask import training
from fpq.indexes.parts import coarse

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


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("options", [{}, {"rotation_dim": 8}, {"metric": "ip", "anisotropy": 1}, {"metric": "cosine"}])
def test_local_rotations(client: Any, taken: list[int], rows: str, options: dict[str, Any]) -> None:
    check(lambda: fpq.IVFPQIndex(150, 4, nbits=4, local_rotations=True, **options), rows, client)
    if options.get("metric") != "cosine":  # anisotropy takes the sample of the codebooks
        assert max(taken) < 1024


@pytest.mark.parametrize("rows", ROWS)
def test_local_rotations_of_lists_of_two_levels(client: Any, rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "LEAST_LISTS", 150)
    check(lambda: fpq.IVFPQIndex(150, 4, nbits=4, local_rotations=True), rows, client)
