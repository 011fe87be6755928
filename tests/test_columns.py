"""Columns of vectors of tables, and tensors: without a copy where possible, errors that name the argument."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fpq
import fpq.interop
from fpq import _checks

X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
IDS = np.arange(len(X))


def arrow(x: np.ndarray) -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])


def arrow_lists(x: np.ndarray) -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.array(x.tolist(), pa.list_(pa.float32()))


def arrow_tensors(x: np.ndarray) -> Any:
    return pytest.importorskip("pyarrow").FixedShapeTensorArray.from_numpy_ndarray(x)


def arrow_chunks(x: np.ndarray) -> Any:
    return pytest.importorskip("pyarrow").chunked_array([arrow(x[:70]), arrow(x[:0]), arrow(x[70:])])


def pandas_of_arrow(x: np.ndarray) -> Any:
    pd = pytest.importorskip("pandas")
    return pd.Series(arrow(x), dtype=pd.ArrowDtype(arrow(x).type))


def pandas_of_arrays(x: np.ndarray) -> Any:
    return pytest.importorskip("pandas").Series(list(x), index=np.arange(len(x)) * 2 + 5)


def pandas_of_tuples(x: np.ndarray) -> Any:
    return pytest.importorskip("pandas").DataFrame({"a": list(map(tuple, x))})["a"]


def polars_arrays(x: np.ndarray) -> Any:
    pl = pytest.importorskip("polars")
    return pl.Series(x, dtype=pl.Array(pl.Float32, x.shape[1]))


def polars_lists(x: np.ndarray) -> Any:
    pl = pytest.importorskip("polars")
    return pl.Series(x.tolist(), dtype=pl.List(pl.Float32))


COLUMNS: list[Callable[[np.ndarray], Any]] = [
    arrow, arrow_lists, arrow_tensors, arrow_chunks, pandas_of_arrow, pandas_of_arrays, pandas_of_tuples,
    polars_arrays, polars_lists,
]  # fmt: skip
every_column = pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.__name__)


@every_column
def test_everything_that_takes_vectors_takes_columns(column: Callable[[np.ndarray], Any]) -> None:
    x = column(X)
    indexes: list[Any] = [
        fpq.FlatIndex(), fpq.PQIndex(4, nbits=4, keep_vectors=True), fpq.IVFPQIndex(4, 4, nbits=4, keep_vectors=True),
        fpq.E2LSHIndex(), fpq.C2LSHIndex(), fpq.PMLSHIndex(),
    ]  # fmt: skip
    for index in indexes:
        index.fit(x).add(x)
        assert (index.reconstruct(IDS) == X).all()
        assert index.search(x, 1).ids.ravel()[:9].tolist() == index.search(X, 1).ids.ravel()[:9].tolist()
        assert index.range_search(column(X[:3]), 1e-6).ids.tolist() == index.range_search(X[:3], 1e-6).ids.tolist()
        assert index.update(column(X[:3]), ids=IDS[:3]) is not None
    kmeans = fpq.KMeans(4, init=column(X[:4])).fit(x)
    same = fpq.KMeans(4, init=X[:4]).fit(X)
    assert (kmeans.centroids == same.centroids).all() and (kmeans.predict(x) == same.predict(X)).all()
    quantizer = fpq.ProductQuantizer(4, nbits=4).fit(x)
    assert (quantizer.encode(x) == quantizer.encode(X)).all()
    assert (quantizer.distance_table(column(X[:2])) == quantizer.distance_table(X[:2])).all()
    assert fpq.recommend(x).nbytes == fpq.recommend(X).nbytes
    assert fpq.PQIndex(4, nbits=4).fit(x).add(x).tune(column(X[:20]), k=2, X=x, recall=0.5)


@every_column
def test_columns_as_blocks(column: Callable[[np.ndarray], Any]) -> None:
    pieces = [X[:100], X[100:250], X[250:]]
    for blocks in ([column(x) for x in pieces], (column(x) for x in pieces)):
        assert (fpq.FlatIndex().add(blocks).reconstruct(IDS) == X).all()
    index = fpq.PQIndex(4, nbits=4).fit(column(x) for x in pieces)
    assert (index.quantizer.codebooks == fpq.PQIndex(4, nbits=4).fit(X).quantizer.codebooks).all()
    assert fpq.FlatIndex().add(X).search([column(x) for x in pieces], 1).ids.ravel().tolist() == IDS.tolist()


@every_column
def test_columns_and_scikit_learn(column: Callable[[np.ndarray], Any]) -> None:
    sklearn = pytest.importorskip("fpq.sklearn")
    transformer = sklearn.ANNTransformer(n_neighbors=2).fit(column(X))
    assert (transformer.transform(column(X)) != sklearn.ANNTransformer(n_neighbors=2).fit_transform(X)).nnz == 0
    classifier = sklearn.ANNClassifier(1).fit(column(X), IDS % 7)
    assert (classifier.predict(column(X)) == IDS % 7).all()


@every_column
def test_slices_and_empty_columns(column: Callable[[np.ndarray], Any]) -> None:
    assert (_checks.numbers("X", column(X)[30:90]) == X[30:90]).all()
    if column is not arrow_tensors:  # pyarrow makes none
        assert len(_checks.numbers("X", column(X[:0]))) == 0


@pytest.mark.parametrize("column", [arrow, pandas_of_arrow])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int8"])
def test_arrow_columns_are_not_copied(column: Callable[[np.ndarray], Any], dtype: str) -> None:
    x = (X * 10).astype(dtype) if dtype != "uint8" else np.abs(X * 10).astype(dtype)
    given = column(x)
    read, again = _checks.numbers("X", given), _checks.numbers("X", given)
    assert read.dtype == dtype and (read == x).all() and np.shares_memory(read, again)


def test_polars_columns_are_not_copied() -> None:
    for given in (polars_arrays(X), polars_lists(X)):
        assert np.shares_memory(_checks.numbers("X", given), _checks.numbers("X", given))


def spoilt() -> dict[str, tuple[Callable[[], Any], str]]:
    pa, pd, pl = (pytest.importorskip(name) for name in ("pyarrow", "pandas", "polars"))
    short, none = [[1.0, 2.0], [3.0]], [[1.0, 2.0], None]
    hole = [[1.0, 2.0], [None, 4.0]]
    ragged = "expected rows of one length, got 2 numbers in row 0 and 1 in row 1"
    missing = r"expected a vector in each row, got (null|None) in row 1"
    null = "expected vectors without missing numbers, got null in row 1"
    fixed = pa.list_(pa.float32(), 2)
    return {
        "ragged arrow": (lambda: pa.array(short), ragged),
        "ragged chunks": (lambda: pa.chunked_array([pa.array(short[:1]), pa.array(short[1:])]), ragged),
        "ragged polars": (lambda: pl.Series(short), ragged),
        "ragged pandas": (lambda: pd.Series(short), ragged),
        "null in arrow": (lambda: pa.array(none), missing),
        "null in fixed arrow": (lambda: pa.array(none, fixed), missing),
        "null in chunks": (lambda: pa.chunked_array([pa.array(none[:1], fixed), pa.array(none[1:], fixed)]), missing),
        "null in polars": (lambda: pl.Series(none), missing),
        "null in arrays of polars": (lambda: pl.Series(none, dtype=pl.Array(pl.Float32, 2)), missing),
        "null in pandas": (lambda: pd.Series(none), missing),
        "null in pandas of arrow": (lambda: pd.Series(none, dtype=pd.ArrowDtype(pa.list_(pa.float32()))), missing),
        "missing number in arrow": (lambda: pa.array(hole), null),
        "missing number in fixed arrow": (lambda: pa.array(hole, fixed), null),
        "missing number in polars": (lambda: pl.Series(hole), null),
        "missing number in arrays of polars": (lambda: pl.Series(hole, dtype=pl.Array(pl.Float32, 2)), null),
        "text in a pandas column": (lambda: pd.Series([[1.0, 2.0], "a"]), "expected a vector in each row, got 'a'"),
        "matrices": (lambda: pl.Series([[[1.0, 2.0]]], dtype=pl.Array(pl.Float32, (1, 2))), "expected .*2-d"),
    }  # fmt: skip


def test_spoilt_columns() -> None:
    index = fpq.FlatIndex().add(X[:, :2])
    for make, message in spoilt().values():
        for name, call in (("X", index.add), ("Q", index.search), ("X", fpq.KMeans(1).fit)):
            with pytest.raises(ValueError, match=f"^{name}: {message}" if name == "X" else f"^{name}: expected "):
                call(make())
        with pytest.raises(ValueError, match=r"^partition 0: expected "):
            index.add(block for block in (make(), X[:, :2]))
    assert len(index) == len(X)


def test_lists_of_text_and_tables_of_columns() -> None:
    pa, pd = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"^X: expected an array of real numbers, got dtype object from ListArray"):
        fpq.FlatIndex().add(pa.array([["a", "b"]]))
    with pytest.raises(TypeError, match=r"or one column of vectors$"):
        fpq.FlatIndex().add(pd.DataFrame({"embedding": list(X)}))


class ArrayInterface:
    """What has the older protocol of NumPy and no other."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.__array_interface__ = array.__array_interface__


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<i4"])
def test_array_interface(dtype: str) -> None:
    x = (X * 8).astype(dtype)
    index = fpq.FlatIndex().add(ArrayInterface(x))
    assert (index.reconstruct(IDS) == x.astype(np.float32)).all()
    assert index.search(ArrayInterface(x), 1).ids.ravel().tolist() == IDS.tolist()
    assert np.shares_memory(_checks.plain("X", ArrayInterface(x)), x)


class OnDevice:
    def __init__(self, device: tuple[int, int]) -> None:
        self._device = device

    def __dlpack__(self, **options: Any) -> Any:
        return X.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._device


def test_other_devices_are_refused() -> None:
    with pytest.raises(TypeError, match=r"^X: expected an array in main memory, got OnDevice on device \(2, 0\): copy"):
        fpq.FlatIndex().add(OnDevice((2, 0)))
    assert np.shares_memory(_checks.numbers("X", OnDevice((1, 0))), X)


class Tensor:
    """What fpq asks of a tensor of torch."""

    def __init__(self, device: str = "cpu", layout: str = "torch.strided", requires_grad: bool = False) -> None:
        self.device = SimpleNamespace(type=device)
        self.layout, self.requires_grad, self.dtype = layout, requires_grad, "torch.float32"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return X

    def __dlpack__(self) -> Any: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, r"expected a tensor on the CPU, got one on .*: pass Q\.cpu\(\)"),
        (
            {"layout": "torch.sparse_csr"},
            r"expected a dense tensor, got layout torch\.sparse_csr: pass Q\.to_dense\(\)",
        ),
        ({"requires_grad": True}, r"expected a tensor without gradient, got one that requires it: pass Q\.detach\(\)"),
    ],
)
def test_tensors_that_are_no_arrays(options: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=Tensor))  # type: ignore[arg-type]
    index = fpq.FlatIndex().add(Tensor())
    for bad in (Tensor(**options), [Tensor(**options)]):
        with pytest.raises(TypeError, match=f"^Q: {message}$"):
            index.search(bad)


def test_tensors_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(X)
    assert np.shares_memory(_checks.numbers("X", tensor), X)
    assert len(fpq.FlatIndex().add([tensor, tensor])) == 2 * len(X)
    assert (_checks.numbers("Q", list(tensor[:3])) == X[:3]).all()


def test_arrays_of_jax() -> None:
    jnp = pytest.importorskip("jax.numpy")
    for dtype in (jnp.float32, jnp.bfloat16):
        index = fpq.FlatIndex().add(jnp.asarray(X, dtype))
        assert index.search(jnp.asarray(X), 1).ids.ravel().tolist() == IDS.tolist()
