"""The same answers on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import interop

X = np.random.default_rng(0).normal(size=(3000, 24)).astype(np.float32)
Q = np.random.default_rng(1).normal(size=(20, 24)).astype(np.float32)


@pytest.fixture
def faiss() -> Any:
    module = pytest.importorskip("faiss")
    module.omp_set_num_threads(1)  # its idle threads spin
    return module


def factory(faiss: Any, description: str, *kind: int) -> Any:
    """An index of faiss's; an optimized rotation is trained in a few iterations."""
    index = faiss.index_factory(24, description, *kind)
    if description.startswith("OPQ"):
        faiss.downcast_VectorTransform(index.chain.at(0)).niter = 4
    return index


def same_answers(index: Any, faiss_index: Any) -> None:
    ours = index.search(Q, k=20)
    distances, ids = faiss_index.search(Q, 20)
    np.testing.assert_allclose(ours.distances, distances, rtol=1e-4, atol=1e-4)
    assert (ours.ids == ids).mean() > 0.9  # sums are rounded in another order, which breaks ties differently


class FromLists:
    """A faiss index that searches the lists that fpq probes: faiss ranks lists by their centroids alone."""

    def __init__(self, faiss: Any, index: Any, other: Any) -> None:
        self.lists = index._coarse.probe(Q, index.n_probe, 1)
        self.x = other.chain.at(0).apply(Q) if isinstance(other, faiss.IndexPreTransform) else Q
        self.ivf = faiss.extract_index_ivf(other)

    def search(self, Q: Any, k: int) -> Any:
        centroids = self.ivf.quantizer.reconstruct_n(0, self.ivf.nlist)
        products = np.take_along_axis(self.x @ centroids.T, self.lists, 1)
        return self.ivf.search_preassigned(self.x, k, self.lists, products)


@pytest.mark.parametrize("nbits", [4, 5, 8])
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("opq", [False, True])
def test_from_faiss_and_back(faiss: Any, nbits: int, metric: str, opq: bool) -> None:
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    other = factory(faiss, f"{'OPQ4_16,' if opq else ''}PQ4x{nbits}np", kind)
    other.train(X)
    other.add(X)
    index = interop.from_faiss(other)
    assert len(index) == 3000 and index.dim == 24
    same_answers(index, other)
    same_answers(index, interop.to_faiss(index))
    index.add(Q)
    other.add(Q)
    same_answers(index, other)


@pytest.mark.parametrize(
    ("opq", "nbits"), [("", 4), ("", 8), ("RR24,", 6), pytest.param("RR16,", 4, id="fewer dimensions")]
)
@pytest.mark.parametrize("metric", ["l2", "ip"])
@pytest.mark.parametrize("residual", [True, False])
def test_lists_from_faiss_and_back(faiss: Any, nbits: int, metric: str, residual: bool, opq: str) -> None:
    kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
    other = factory(faiss, f"{opq}IVF12,PQ4x{nbits}np", kind)
    ivf = faiss.extract_index_ivf(other)
    ivf.by_residual = residual
    ivf.nprobe = 4
    other.train(X[:500])
    other.add_with_ids(X, np.arange(3000)[::-1] * 7)
    index = interop.from_faiss(other)
    assert isinstance(index, fpq.IVFPQIndex)
    assert (len(index), index.dim, index.n_probe, index.residual) == (3000, 24, 4, residual)
    np.testing.assert_array_equal(index.list_sizes, [ivf.invlists.list_size(i) for i in range(12)])
    same_answers(index, other)
    again = interop.to_faiss(index)
    same_answers(index, again)
    index.n_probe = ivf.nprobe = 12
    same_answers(index, other)
    index.remove(np.arange(500) * 7)
    other.remove_ids(np.arange(500) * 7)
    same_answers(index, other)
    if metric == "l2":  # else faiss chooses lists for new vectors by inner product
        index.add(Q, np.arange(20))
        other.add_with_ids(Q, np.arange(20))
        same_answers(index, other)


@pytest.mark.parametrize("rotation", [None, "pca", "opq"])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_lists_to_faiss_and_back(faiss: Any, rotation: str | None, residual: bool, metric: str, tmp_path: Path) -> None:
    index = fpq.IVFPQIndex(
        9, 4, nbits=5, residual=residual, metric=metric, rotation=rotation, open_indexing=1.5, list_capacity=1.2
    )
    index.fit(X).add(X, ids=np.arange(3000)[::-1] * 2)
    for n_probe in (2, 9):
        index.n_probe = n_probe
        other = interop.to_faiss(index)
        same_answers(index, FromLists(faiss, index, other) if metric == "ip" else other)
    back = interop.from_faiss(other)
    back.save(tmp_path / "a")
    found, expected = fpq.load(tmp_path / "a").search(Q, k=20), index.search(Q, k=20)
    np.testing.assert_allclose(found.distances, expected.distances, rtol=1e-4, atol=1e-4)
    assert (found.ids == expected.ids).mean() > 0.95
    assert len(interop.from_faiss(interop.to_faiss(fpq.IVFPQIndex(3, 4, nbits=4).fit(X)))) == 0


@pytest.mark.parametrize("rotation", [None, "pca", "opq"])
@pytest.mark.parametrize("nbits", [3, 8])
def test_to_faiss_and_back(faiss: Any, rotation: str | None, nbits: int) -> None:
    options: dict[str, Any] = {} if rotation is None else {"rotation": rotation, "rotation_dim": 20}
    index = fpq.PQIndex(4, nbits=nbits, open_indexing=1.5, **options).fit(X).add(X, ids=np.arange(3000)[::-1])
    other = interop.to_faiss(index)
    same_answers(index, other)
    back = interop.from_faiss(other)
    found, expected = back.search(Q, k=20), index.search(Q, k=20)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.distances, expected.distances)


def test_converted_indexes_can_be_saved(faiss: Any, tmp_path: Path) -> None:
    other = factory(faiss, "OPQ4,PQ4x5")
    other.train(X)
    other.add(X)
    index = interop.from_faiss(other)
    index.save(tmp_path / "a")
    np.testing.assert_array_equal(fpq.load(tmp_path / "a").search(Q).ids, index.search(Q).ids)
    fpq.FlatIndex()
    del other
    interop.to_faiss(index).search(Q, 3)


def test_what_one_side_cannot_express(faiss: Any) -> None:
    uneven = fpq.PQIndex(5).fit(X)
    with pytest.raises(ValueError, match="not divisible by 5"):
        interop.to_faiss(uneven)
    with pytest.raises(ValueError, match="cosine"):
        interop.to_faiss(fpq.PQIndex(4, metric="cosine").fit(X))
    with pytest.raises(ValueError, match="not trained"):
        interop.to_faiss(fpq.PQIndex(4))
    with pytest.raises(ValueError, match="other ids"):
        interop.to_faiss(fpq.PQIndex(4).fit(X).add(X[:3], ids=[4, 5, 6]))
    with pytest.raises(TypeError, match="PQIndex, got FlatIndex"):
        interop.to_faiss(fpq.FlatIndex())
    with pytest.raises(ValueError, match="differ only within the rotated dimensions"):
        interop.to_faiss(fpq.IVFPQIndex(3, 4, nbits=4, rotation="pca", rotation_dim=16).fit(X))
    with pytest.raises(ValueError, match="coarse quantizer, got IndexHNSWFlat"):
        interop.from_faiss(trained(factory(faiss, "IVF8_HNSW8,PQ4x4")))
    coarse = faiss.IndexFlatL2(24)
    with pytest.raises(ValueError, match="of metric 1"):
        interop.from_faiss(trained(faiss.IndexIVFPQ(coarse, 24, 8, 4, 4, faiss.METRIC_INNER_PRODUCT)))
    limited = trained(factory(faiss, "IVF8,PQ4x4"))
    limited.max_codes = 100
    with pytest.raises(ValueError, match="max_codes"):
        interop.from_faiss(limited)
    twice = trained(factory(faiss, "IVF8,PQ4x4"))
    twice.add_with_ids(X[:2], np.array([5, 5]))
    with pytest.raises(ValueError, match="got 5 more than once"):
        interop.from_faiss(twice)
    with pytest.raises(TypeError, match="IndexIVFPQR"):
        interop.from_faiss(factory(faiss, "IVF8,PQ4+8"))
    with pytest.raises(TypeError, match="IndexFlat"):
        interop.from_faiss(faiss.IndexFlatL2(24))
    with pytest.raises(ValueError, match="trained"):
        interop.from_faiss(faiss.IndexPQ(24, 4, 8))
    with pytest.raises(ValueError, match="8 bits"):
        interop.from_faiss(trained(faiss.IndexPQ(24, 2, 9)))
    with pytest.raises(ValueError, match="metric"):
        interop.from_faiss(trained(faiss.IndexPQ(24, 2, 4, faiss.METRIC_L1)))
    with pytest.raises(ValueError, match="bias"):
        interop.from_faiss(trained(factory(faiss, "PCA8,PQ4x4")))
    with pytest.raises(ValueError, match="ST_PQ"):
        polysemous = trained(faiss.IndexPQ(24, 2, 4))
        polysemous.search_type = faiss.IndexPQ.ST_SDC
        interop.from_faiss(polysemous)
    with pytest.raises(ValueError, match="chain"):
        interop.from_faiss(trained(factory(faiss, "OPQ4,L2norm,PQ4x4")))


def trained(index: Any) -> Any:
    index.train(X)
    return index


def test_codebooks_and_codes_keep_their_meaning() -> None:
    """As nanopq has them: PQ.codewords (M, Ks, Ds), OPQ.R."""
    pq = fpq.ProductQuantizer(4).fit(X)
    index = interop.from_codebooks(pq.codebooks.astype(np.float64))
    np.testing.assert_array_equal(index.quantizer.encode(X), pq.encode(X))
    np.testing.assert_array_equal(index.add(X).codes, pq.encode(X))
    rotated = fpq.ProductQuantizer(4, nbits=5, rotation="opq", rotation_dim=12).fit(X)
    index = interop.from_codebooks(rotated.codebooks, rotation_matrix=rotated.rotation_matrix, metric="ip")
    np.testing.assert_array_equal(index.quantizer.encode(X), rotated.encode(X))
    assert index.dim == 24 and index.metric == "ip"


@pytest.mark.parametrize(
    ("codebooks", "rotation", "message"),
    [
        (np.zeros((4, 256)), None, "shape"),
        (np.zeros((4, 255, 3)), None, "255"),
        (np.zeros((4, 512, 3)), None, "512"),
        (np.zeros((4, 1, 3)), None, "got 1"),
        (np.zeros((4, 0, 3)), None, "shape"),
        (np.full((4, 2, 3), np.nan), None, "finite"),
        (np.zeros((4, 2, 3)), np.eye(11), "shape"),
        (np.zeros((4, 2, 3)), 2 * np.eye(12), "orthonormal"),
    ],
)
def test_bad_codebooks(codebooks: Any, rotation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interop.from_codebooks(codebooks, rotation_matrix=rotation)
