"""Vectors of bfloat16: read in place, kept in two bytes per number, saved and loaded with and without ml_dtypes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
import fpq.interop
from fpq import _bfloat16, _checks, _native, cli

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
N, D = 400, 34  # wide enough for sketches
RNG = np.random.default_rng(1)
X = RNG.normal(size=(N, D)).astype(BFLOAT16)
WIDE = X.astype(np.float32)
Q = np.concatenate([WIDE[:4], -WIDE[:1]])
IDS = np.arange(N)
KINDS: dict[str, Callable[..., Any]] = {
    "flat": fpq.FlatIndex,
    "pq": lambda metric: fpq.PQIndex(4, nbits=4, metric=metric, keep_vectors=True),
    "opq": lambda metric: fpq.PQIndex(4, nbits=4, metric=metric, rotation="opq", keep_vectors=True),
    "pca": lambda metric: fpq.PQIndex(4, nbits=4, metric=metric, rotation="pca", refine="sq8"),
    "ivfpq": lambda metric: fpq.IVFPQIndex(5, 4, nbits=4, metric=metric, keep_vectors=True),
    "e2lsh": lambda metric: fpq.E2LSHIndex(metric=metric),
    "c2lsh": lambda metric: fpq.C2LSHIndex(metric=metric),
    "pmlsh": lambda metric: fpq.PMLSHIndex(metric=metric),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
every_metric = pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])


def make(kind: str, metric: str) -> Any:
    if kind in ("e2lsh", "c2lsh", "pmlsh") and metric == "ip":
        pytest.skip("LSH has no inner products")
    return KINDS[kind](metric)


def same(a: Any, b: Any) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


@every_metric
@every_kind
def test_answers_are_those_of_the_same_numbers_in_float32(kind: str, metric: str) -> None:
    narrow = make(kind, metric).fit(X).add(X)
    kept = WIDE if metric != "cosine" else make(kind, metric).fit(WIDE).add(WIDE).reconstruct(IDS)
    wide = make(kind, metric).fit(WIDE).add(kept.astype(BFLOAT16).astype(np.float32) if kind == "flat" else WIDE)
    if kind != "pca":
        assert narrow._vectors.data.dtype == BFLOAT16
        assert narrow._vectors.nbytes == X.nbytes
    if metric != "cosine":
        same(narrow.search(Q, 9), wide.search(Q, 9))
        same(narrow.range_search(Q, 30.0), wide.range_search(Q, 30.0))
        same([narrow.reconstruct(IDS)], [wide.reconstruct(IDS)])
    elif kind != "pca":
        same([narrow.reconstruct(IDS)], [kept.astype(BFLOAT16)])
        options = {"pq": {"rerank": N}, "opq": {"rerank": N}, "ivfpq": {"rerank": N, "n_probe": 5}}.get(kind, {})
        np.testing.assert_allclose(narrow.search(Q, 1, **options).distances[:4], 1, atol=4e-3)
    same(narrow.search(Q.astype(BFLOAT16), 9), narrow.search(Q, 9))


@every_kind
def test_rows_of_several_types(kind: str) -> None:
    trained = make(kind, "l2").fit(X)
    parts = [(X[:50], IDS[:50]), (WIDE[50:90] * 1.001, IDS[50:90]), (X[90:99].astype(np.float16), IDS[90:99])]
    found = []
    for order in ((0, 1, 2), (2, 1, 0), (0, 2, 1)):
        index = copy.deepcopy(trained)
        for i in order:
            index.add(parts[i][0], ids=parts[i][1])
        found.append(index.reconstruct(IDS[:99]))
    assert (found[0] == found[1]).all() and (found[0] == found[2]).all()


def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, ml_dtypes is not installed."""
    monkeypatch.setattr(_bfloat16, "installed", lambda: None)


@every_metric
@every_kind
@pytest.mark.parametrize("without", [False, True])
def test_files(kind: str, metric: str, without: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make(kind, metric).fit(X).add(X)
    index.remove(IDS[::3])
    index.save(tmp_path / "a")
    raw = pickle.dumps(index)
    if without:
        hidden(monkeypatch)
    for again in (
        fpq.load(tmp_path / "a"), fpq.load(tmp_path / "a", mmap=True), index.copy(), copy.deepcopy(index),
        pickle.loads(raw),
    ):  # fmt: skip
        if kind != "pca":
            assert again._vectors.data.dtype == (_bfloat16.BITS if without else BFLOAT16)
        same(again.search(Q, 9), index.search(Q, 9))
        same([again.reconstruct(index.ids)], [index.reconstruct(index.ids)])
        again.save(tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    fpq.load(tmp_path / "a", mmap=True).verify()


@every_kind
def test_an_index_without_ml_dtypes_can_be_changed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(kind, "l2").fit(X).add(X).save(tmp_path / "a")
    hidden(monkeypatch)
    index, other = fpq.load(tmp_path / "a"), fpq.load(tmp_path / "a")
    assert index.remove(IDS[:100]) == 100
    other.remove(IDS[100:])
    index.merge(other)
    same([index.reconstruct(IDS)], [make(kind, "l2").fit(X).add(X).reconstruct(IDS)])
    index.update(WIDE[:9] * 3, ids=IDS[:9])
    same([index.reconstruct(IDS[9:])], [make(kind, "l2").fit(X).add(X).reconstruct(IDS[9:])])
    if kind in ("pq", "ivfpq"):
        index.tune(WIDE[9:40], k=3, recall=0.5)
    same([index.search(WIDE[20:24], 1).ids.ravel()], [IDS[20:24]])


def test_damaged_numbers_are_found(tmp_path: Path) -> None:
    x = X.copy()
    fpq.FlatIndex().add(x).save(tmp_path / "a")
    index = fpq.load(tmp_path / "a")
    index._vectors.data[7, 3] = np.nan
    index.save(tmp_path / "b")
    with pytest.raises(fpq.FormatError, match=r": vectors: expected finite numbers"):
        fpq.load(tmp_path / "b")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite(bad: float) -> None:
    x = X.copy()
    x[9, 5] = bad
    with pytest.raises(
        ValueError, match=r"^X: expected numbers that are finite as float32, got NaN or infinity in row 9"
    ):
        fpq.FlatIndex().add(x)
    with pytest.raises(ValueError, match=r"^Q: expected numbers"):
        fpq.FlatIndex().add(X).search(x)


def test_every_number() -> None:
    every = np.arange(1 << 16).astype(np.uint16).view(BFLOAT16)
    column = every[np.isfinite(every)][:, None]
    out = np.empty(column.shape, np.float32)
    _native.add_centroids(column, np.zeros((1, 1), np.float32), np.zeros(len(column), np.int32), 1, out, 2)
    same([out], [column.astype(np.float32)])
    same([_bfloat16.widened(_bfloat16.as_bits(column))], [column.astype(np.float32)])


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: x,
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "misaligned": lambda x: np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "list of rows": list,
    "object rows": lambda x: np.array([*x, None], dtype=object)[:-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    x = LAYOUTS[layout](X)
    read = _checks.numbers("X", x)
    assert read.dtype == BFLOAT16 and (layout in list(LAYOUTS)[4:] or np.shares_memory(read, x))
    index = fpq.PQIndex(4, nbits=4, keep_vectors=True).fit(x).add(x)
    same([index.reconstruct(IDS)], [WIDE])
    same([index.codes], [fpq.PQIndex(4, nbits=4).fit(WIDE).add(WIDE).codes])


def test_everything_that_takes_vectors() -> None:
    same([fpq.KMeans(4).fit(X).centroids], [fpq.KMeans(4).fit(WIDE).centroids])
    same([fpq.KMeans(4, init=X[:4]).fit(X).predict(X)], [fpq.KMeans(4, init=WIDE[:4]).fit(WIDE).predict(WIDE)])
    quantizer = fpq.ProductQuantizer(4, nbits=4).fit(X)
    same([quantizer.encode(X)], [fpq.ProductQuantizer(4, nbits=4).fit(WIDE).encode(WIDE)])
    same([quantizer.distance_table(X[:2])], [quantizer.distance_table(WIDE[:2])])
    books = quantizer.codebooks.astype(BFLOAT16)
    same([fpq.interop.from_codebooks(books).quantizer.codebooks], [books.astype(np.float32)])
    index = fpq.FlatIndex().add([X[:100], X[100:]])
    same(index.search([Q.astype(BFLOAT16)], 3), index.search(Q, 3))
    assert index._vectors.data.dtype == BFLOAT16
    assert fpq.PQIndex(4, nbits=4).fit(X).add(X).tune(X[:20], k=2, X=X, recall=0.5)
    wide_rows = np.repeat(X[:20], 10, axis=1)
    assert fpq.PQIndex(4, nbits=4, rotation="pca", rotation_dim=8).fit(wide_rows).is_trained


def test_scikit_learn() -> None:
    sklearn = pytest.importorskip("fpq.sklearn")
    narrow, wide = (sklearn.ANNTransformer(n_neighbors=2).fit_transform(x) for x in (X, WIDE))
    assert (narrow != wide).nnz == 0


def test_tiny_and_huge_numbers() -> None:
    for scale in (1e-30, 1e15):
        x = (WIDE * scale).astype(BFLOAT16)
        same(fpq.FlatIndex().add(x).search(x[:9], 3), fpq.FlatIndex().add(x.astype("f4")).search(x[:9], 3))
        same([fpq.PQIndex(4, nbits=4).fit(x).add(x).codes], [fpq.PQIndex(4, nbits=4).fit(x.astype("f4")).add(x).codes])


@pytest.mark.parametrize("without", [False, True])
def test_recommend(without: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fpq.recommend((100_000, 64), recall=0.99, dtype="float16")
    if without:
        hidden(monkeypatch)
    found = fpq.recommend((100_000, 64), recall=0.99, dtype="bfloat16")
    assert found.nbytes == expected.nbytes
    assert any("bfloat16" in reason for reason in found.reasons)
    if not without:
        assert fpq.recommend(X, dtype=BFLOAT16).nbytes == fpq.recommend(X).nbytes == N * (4 + 2 * D)
        assert fpq.recommend(X, metric="cosine").nbytes == N * (4 + 2 * D)


def test_untyped_numbers_get_a_hint(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    raw = np.load(tmp_path / "x.npy")
    with pytest.raises(TypeError, match=r"^X: .*dtype \|V2: .* pass X\.view\(ml_dtypes\.bfloat16\)$"):
        fpq.FlatIndex().add(raw)
    same([fpq.FlatIndex().add(raw.view(BFLOAT16)).reconstruct(IDS)], [WIDE])


def test_tensors_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(WIDE).bfloat16()
    read = _checks.numbers("X", tensor)
    assert read.dtype == BFLOAT16 and np.shares_memory(read, _checks.numbers("X", tensor)) and (read == X).all()
    hidden(monkeypatch)
    same([fpq.FlatIndex().add(tensor).reconstruct(IDS)], [WIDE])


def test_file_information(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fpq.FlatIndex().add(X).save(tmp_path / "a")
    assert cli.main(["info", str(tmp_path / "a")]) == 0
    assert f"bfloat16 {N}x{D}" in capsys.readouterr().out
