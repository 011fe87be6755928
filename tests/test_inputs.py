"""Arrays in every form that they come to people in: the right answers, or an error that names the argument.

What needs a library that is not installed is skipped.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
import fpq.dask

X = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
ROWS = X.astype(float).tolist()
IDS = np.arange(400)[::-1] * 3


def explicit(array: np.ndarray) -> np.ndarray:
    """The same array, whose dtype spells out the byte order, as NumPy's documentation swaps bytes."""
    swapped = array.astype(array.dtype.newbyteorder("S"))
    return swapped.byteswap().view(swapped.dtype.newbyteorder())


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.setflags(write=False)
    return array


def misaligned(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"x" + array.tobytes(), np.uint8)[1:].view(array.dtype).reshape(array.shape)


def mapped(array: np.ndarray, folder: Path) -> Any:
    np.save(folder / "x.npy", array)
    return np.load(folder / "x.npy", mmap_mode="r")


def field(array: np.ndarray, kind: str) -> np.ndarray:
    record = np.zeros(len(array), [("flag", "i1"), ("vector", kind, array.shape[1:])])
    record["vector"] = array
    return record["vector"]


class OnlyDLPack:
    """What has DLPack's protocol and no other."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


def hdf5(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("h5py").File(folder / "x.h5", "w").create_dataset("x", data=array)


def zarr(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("zarr").array(array)


def xarray(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("xarray").DataArray(array)


def chunked_xarray(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("xarray").DataArray(array).chunk({"dim_0": 90})


def frame(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(array)


def nullable_frame(array: np.ndarray, folder: Path) -> Any:
    return frame(array, folder).convert_dtypes().astype({0: "Float32"})


def polars(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("polars").DataFrame(array)


def table(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("pyarrow").table({f"c{i}": column for i, column in enumerate(array.T)})


def lists_of_pandas(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("pandas").Series(array.tolist())


def arrays_of_pandas(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame({"embedding": list(array)})["embedding"]


def lists_of_polars(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("polars").Series(array.tolist())


def arrays_of_polars(array: np.ndarray, folder: Path) -> Any:
    pl = pytest.importorskip("polars")
    return pl.Series(array.tolist(), dtype=pl.Array(pl.Float32, array.shape[1]))


def lists_of_arrow(array: np.ndarray, folder: Path) -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])


def tensor_of_arrow(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("pyarrow").Tensor.from_numpy(array)


def torch(array: np.ndarray, folder: Path) -> Any:
    return pytest.importorskip("torch").from_numpy(array)


def bfloat16(array: np.ndarray, folder: Path) -> Any:
    return array.astype(pytest.importorskip("ml_dtypes").bfloat16)


WAYS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "list": lambda x, _: x.tolist(),
    "tuple of lists": lambda x, _: tuple(x.tolist()),
    "explicit byte order": lambda x, _: explicit(x),
    "explicit float64": lambda x, _: explicit(x.astype(np.float64)),
    "explicit float16": lambda x, _: explicit(x.astype(np.float16)),
    "other byte order": lambda x, _: x.astype(x.dtype.newbyteorder("S")),
    "other byte order, mapped": lambda x, folder: mapped(x.astype(x.dtype.newbyteorder("S")), folder),
    "mapped": mapped,
    "part of mapped": lambda x, folder: mapped(np.vstack([x, x]), folder)[: len(x)],
    "read-only": lambda x, _: read_only(x),
    "explicit and read-only": lambda x, _: read_only(explicit(x)),
    "misaligned": lambda x, _: misaligned(x),
    "Fortran order": lambda x, _: np.asfortranarray(x),
    "every other column": lambda x, _: np.repeat(x, 2, axis=1)[:, ::2],
    "backwards": lambda x, _: x[::-1, ::-1].copy()[::-1, ::-1],
    "structured field": lambda x, _: field(x, "<f4"),
    "structured field, big-endian": lambda x, _: field(x, ">f4"),
    "structured field, float64": lambda x, _: field(x, "<f8"),
    "recarray": lambda x, _: field(x, "f4").base.view(np.recarray).vector,
    "matrix": lambda x, _: np.asmatrix(x),
    "masked, nothing masked": lambda x, _: np.ma.masked_array(x, mask=np.zeros(x.shape, bool)),
    "masked, no mask": lambda x, _: np.ma.masked_array(x),
    "memoryview": lambda x, _: memoryview(x),
    "long double": lambda x, _: x.astype(np.longdouble),
    "DLPack": lambda x, _: OnlyDLPack(x),
    "array of lists": lambda x, _: np.array([None, *x.tolist()], dtype=object)[1:],
} | {
    f.__name__: f
    for f in (
        hdf5, zarr, xarray, chunked_xarray, frame, nullable_frame, polars, table, lists_of_pandas, arrays_of_pandas,
        lists_of_polars, arrays_of_polars, lists_of_arrow, tensor_of_arrow, torch, bfloat16,
    )
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_vectors(way: str, tmp_path: Path) -> None:
    x = WAYS[way](X, tmp_path)
    exact = way not in ("explicit float16", "bfloat16")
    flat = fpq.FlatIndex().add(x)
    assert flat.search(X[:9], 1).ids.ravel().tolist() == list(range(9))
    assert fpq.FlatIndex().add(X).search(x, 1).ids.ravel().tolist() == list(range(len(X)))
    if exact:
        assert (flat.reconstruct(np.arange(len(X))) == X).all()
        same = fpq.PQIndex(4, nbits=4).fit(X).add(X)
        index = fpq.PQIndex(4, nbits=4).fit(x).add(x)
        assert (index.codes == same.codes).all() and (index.quantizer.codebooks == same.quantizer.codebooks).all()
        if not isinstance(x, (list, tuple, memoryview)):  # which are blocks there
            assert (fpq.dask.fit(fpq.PQIndex(4, nbits=4), x).quantizer.codebooks == same.quantizer.codebooks).all()
        if way != "chunked_xarray":  # KMeans reads arrays that are in one piece
            assert (fpq.KMeans(4).fit(x).centroids == fpq.KMeans(4).fit(X).centroids).all()


@pytest.mark.parametrize(
    "kind", [fpq.E2LSHIndex, fpq.C2LSHIndex, fpq.PMLSHIndex, lambda: fpq.IVFPQIndex(4, 4, nbits=4)]
)
@pytest.mark.parametrize("way", ["explicit byte order", "hdf5", "structured field, big-endian"])
def test_vectors_of_every_kind(way: str, kind: Any, tmp_path: Path) -> None:
    x = WAYS[way](X, tmp_path)
    assert (kind().fit(x).add(x).search(x, 3).ids == kind().fit(X).add(X).search(X, 3).ids).all()


def test_blocks_of_every_library() -> None:
    pieces: list[Any] = [X[:100], explicit(X[100:200]), memoryview(X[200:300]), field(X[300:], "f4")]
    index = fpq.FlatIndex().add(piece for piece in pieces)
    assert (index.reconstruct(np.arange(400)) == X).all()


def test_blocks_of_tensors() -> None:
    tensor = torch(X, Path())
    assert len(fpq.FlatIndex().add(tensor[i : i + 100] for i in range(0, 400, 100))) == 400


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64, ">i4", ">u8"])
def test_ids_of_every_type(dtype: Any) -> None:
    ids = (IDS[:80] // 3 % 80).astype(dtype)
    for given in (
        ids,
        explicit(ids),
        ids.tolist(),
        read_only(ids),
        np.repeat(ids, 2)[::2],
        memoryview(ids.astype("i8")),
    ):
        index = fpq.FlatIndex().add(X[:80], ids=given)
        assert index.ids.tolist() == ids.tolist()
        assert sorted(index.search(X[0], 80, allowed=given).ids.tolist()) == sorted(ids.tolist())
        assert (index.reconstruct(given) == X[:80]).all()
        assert index.remove(given) == 80


def nullable(values: list[Any]) -> str:
    return "boolean" if any(value is True for value in values) else "Int64"


def ids_as(library: str, values: list[Any]) -> Any:
    if library == "pandas":
        pd = pytest.importorskip("pandas")
        return pd.Series(values, dtype=nullable(values) if None in values else None)
    if library == "nullable pandas":
        return pytest.importorskip("pandas").array(values, dtype=nullable(values))
    if library == "index":
        return pytest.importorskip("pandas").Index(values)
    if library == "polars":
        return pytest.importorskip("polars").Series(values)
    if library == "torch":
        return pytest.importorskip("torch").tensor(values)
    return pytest.importorskip("pyarrow").array(values)


@pytest.mark.parametrize("library", ["pandas", "nullable pandas", "index", "polars", "pyarrow", "torch"])
def test_ids_and_masks_of_every_library(library: str) -> None:
    index = fpq.FlatIndex().add(X[:5], ids=ids_as(library, [7, 5, 3, 1, 9]))
    assert index.ids.tolist() == [7, 5, 3, 1, 9]
    assert sorted(index.search(X[0], 2, allowed=ids_as(library, [3, 5])).ids.tolist()) == [3, 5]
    mask = ids_as(library, [i in (3, 9) for i in range(10)])
    assert sorted(index.search(X[0], 2, allowed=mask).ids.tolist()) == [3, 9]
    assert fpq.metrics.one_recall_at_k(np.array([[3], [5]]), ids_as(library, [3, 4])) == 0.5
    assert index.remove(ids_as(library, [7, 1])) == 2


@pytest.mark.parametrize("library", ["pandas", "nullable pandas", "polars", "pyarrow"])
def test_missing_ids_are_refused(library: str) -> None:
    index = fpq.FlatIndex().add(X[:3])
    for call in (
        lambda: index.add(X[:2], ids=ids_as(library, [7, None])),
        lambda: index.remove(ids_as(library, [0, None])),
        lambda: index.reconstruct(ids_as(library, [0, None])),
    ):
        with pytest.raises((ValueError, TypeError), match=r"^ids: expected"):
            call()
    for allowed in ([0, None], [True, False, None]):
        with pytest.raises((ValueError, TypeError), match=r"^allowed: expected"):
            index.search(X[0], allowed=ids_as(library, allowed))
    with pytest.raises((ValueError, TypeError), match="true_ids"):
        fpq.metrics.one_recall_at_k([[0], [1]], ids_as(library, [0, None]))
    assert index.ids.tolist() == [0, 1, 2]


def test_missing_numbers_are_refused(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    for kind in ("Float64", "Int8"):
        with pytest.raises(ValueError, match=r"^X: expected"):
            fpq.FlatIndex().add(pd.DataFrame({"a": pd.array([1, None], kind), "b": [1.0, 2.0]}))
    with pytest.raises(TypeError, match=r"^X: expected an array of real numbers, got dtype object from DataFrame"):
        fpq.FlatIndex().add(pd.DataFrame({"a": [1.0], "b": ["x"]}))


def test_tensors_that_are_no_arrays() -> None:
    tensor = torch(X[:4].copy(), Path())
    for bad in (tensor.clone().requires_grad_(), tensor.to_sparse(), tensor.to("meta")):
        with pytest.raises(TypeError, match=r"^X: expected a .*tensor.*, got "):
            fpq.FlatIndex().add(bad)


MASKED = np.ma.masked_array(X, mask=X > 1)
NUMBERS = np.ma.masked_array([3, 7], mask=[False, True])


def quantizer() -> fpq.ProductQuantizer:
    return fpq.ProductQuantizer(4, nbits=4).fit(X)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("X", lambda index: index.add(MASKED)),
        ("X", lambda index: index.add(list(MASKED))),
        ("X", lambda index: index.add([[*MASKED[0].tolist()[:-1], np.ma.masked]])),
        ("partition 0", lambda index: index.add([MASKED, MASKED])),
        ("partition 1", lambda index: index.add(block for block in (X, MASKED))),
        ("Q", lambda index: index.search(MASKED)),
        ("Q", lambda index: index.search(MASKED[int(np.argmax(X.max(axis=1)))])),
        ("Q", lambda index: index.range_search(MASKED, 1.0)),
        ("ids", lambda index: index.add(X[:2], ids=NUMBERS)),
        ("ids", lambda index: index.add((x for x in [X[:2]]), ids=NUMBERS)),
        ("ids", lambda index: index.remove(NUMBERS)),
        ("ids", lambda index: index.remove(np.ma.masked)),
        ("ids", lambda index: index.reconstruct(NUMBERS)),
        ("allowed", lambda index: index.search(X[0], allowed=NUMBERS)),
        ("allowed", lambda index: index.search(X[0], allowed=np.ma.masked_array(np.ones(400, bool), mask=X[:, 0] > 0))),
        ("X", lambda index: fpq.PQIndex(4, nbits=4).fit(MASKED)),
        ("X", lambda index: fpq.KMeans(4).fit(MASKED)),
        ("init", lambda index: fpq.KMeans(400, init=MASKED).fit(X)),
        ("init", lambda index: pickle.dumps(fpq.KMeans(400, init=MASKED))),
        ("X", lambda index: quantizer().encode(MASKED)),
        ("codes", lambda index: quantizer().decode(np.ma.masked_array(np.zeros((2, 2), np.uint8), mask=True))),
        ("Q", lambda index: quantizer().distance_table(MASKED)),
        ("codebooks", lambda index: fpq.interop.from_codebooks(np.ma.masked_array(X[None], mask=True))),
        ("rotation_matrix", lambda index: fpq.interop.from_codebooks(
            np.zeros((4, 4, 4)), rotation_matrix=np.ma.masked_array(np.eye(16), mask=np.eye(16)))),
        ("neighbors", lambda index: fpq.PQIndex(4, nbits=4, keep_vectors=True).fit(X).add(X).tune(
            X[:2], k=1, neighbors=NUMBERS[:, None])),
        ("X", lambda index: fpq.E2LSHIndex().fit(MASKED)),
        ("partition 0", lambda index: fpq.dask.fit(fpq.PQIndex(4, nbits=4), MASKED)),
    ],
)  # fmt: skip
def test_masked_entries_are_refused(name: str, call: Callable[[fpq.FlatIndex], Any]) -> None:
    import fpq.interop

    index = fpq.FlatIndex().add(X)
    before = pickle.dumps(index)
    with pytest.raises(ValueError, match=rf"^{name}: expected an array without masked entries, got \d+ of \d+ masked"):
        call(index)
    assert pickle.dumps(index) == before


def test_masked_chunks_of_dask_are_refused() -> None:
    da = pytest.importorskip("dask.array")
    with pytest.raises(ValueError, match=r"^partition 0: expected an array without masked entries"):
        fpq.FlatIndex().add(da.from_array(MASKED, chunks=(100, 16)))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (X.astype(object), "dtype object"),
        (X.astype(str), "dtype <U"),
        (X.astype(bytes), r"dtype \|?S"),
        (X + 1j, "dtype complex"),
        (X.astype("datetime64[s]"), "dtype datetime64"),
        (X.astype("timedelta64[s]"), "dtype timedelta64"),
        (np.zeros(3, [("a", "f4")]), "dtype \\[\\('a'"),
        (np.zeros((3, 4), "V4"), "dtype |V4"),
        ({1.0, 2.0}, "dtype object from set"),
    ],
)
def test_what_is_no_array_of_numbers(bad: Any, message: str) -> None:
    with pytest.raises(TypeError, match=f"^X: expected an array of real numbers, got {message}"):
        fpq.FlatIndex().add(bad)
    with pytest.raises(TypeError, match=f"^codebooks: expected an array of real numbers, got {message}"):
        fpq.interop.from_codebooks(bad)


@pytest.mark.parametrize("values", [[2**24 + 1, 1], [-(2**62), 5], [2**63 - 1, 0]])
def test_large_integers_are_rounded_with_a_warning(values: list[int]) -> None:
    x = np.array([values, [0, 0]])
    with pytest.warns(UserWarning, match=r"^X: integers beyond 2\*\*24 are rounded to float32"):
        index = fpq.FlatIndex().add(x)
    assert (index.reconstruct([0, 1]) == x.astype(np.float32)).all()
    with pytest.warns(UserWarning, match=r"^Q: integers beyond"):
        index.search(x)


def test_integers_from_2_to_the_63_do_not_wrap() -> None:
    x = np.array([[2**63, 2**64 - 1], [1, 2]], np.uint64)
    with pytest.warns(UserWarning, match="integers beyond"):
        index = fpq.FlatIndex().add(x)
    assert index.reconstruct([0]).tolist() == [[2.0**63, 2.0**64]]


def test_integers_that_float32_has_are_taken_in_silence() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (np.int16, np.uint16, np.int32, np.int64, np.uint64):
            fpq.FlatIndex().add(np.array([[2**15 - 1, 0]], dtype))
        fpq.FlatIndex().add(np.array([[2**24, -(2**24)]]))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([2**63, 1], ValueError, r"expected ids below 2\*\*63, got 9223372036854775808"),
        ([2**64, 1], ValueError, r"expected ids below 2\*\*63, got 18446744073709551616"),
        ([-1, 2**63], ValueError, r"expected ids below 2\*\*63"),
        ([-(2**64), 1], ValueError, "expected ids of at least 0"),
        (np.array([2**63, 1], np.uint64), ValueError, r"expected ids below 2\*\*63"),
        (np.array([2.0, 3.0]), TypeError, "expected integer ids, got dtype float64"),
        ([1.0, 2**63], TypeError, "expected integer ids, got dtype float64"),
        ([True, False], TypeError, "expected integer ids, got dtype bool"),
        (["a", "b"], TypeError, "expected integer ids, got dtype <U1"),
        (np.array([1, 2], object), TypeError, "expected integer ids, got dtype object"),
        (np.array([1, 2], "m8[s]"), TypeError, "expected integer ids, got dtype timedelta64"),
    ],
)
def test_bad_ids(ids: Any, error: type[Exception], message: str) -> None:
    index = fpq.FlatIndex().add(X)
    for call in (lambda: index.add(X[:2], ids=ids), lambda: index.remove(ids), lambda: index.reconstruct(ids)):
        with pytest.raises(error, match=f"^ids: {message}"):
            call()
    if not isinstance(ids[0], bool):
        with pytest.raises(error, match=f"^allowed: {message}"):
            index.search(X[0], allowed=ids)


@pytest.mark.parametrize("none", [[], (), np.array([]), np.array([], np.int8), np.zeros(0, bool)])
def test_no_ids(none: Any) -> None:
    index = fpq.FlatIndex().add(X)
    assert index.remove(none) == 0
    assert index.reconstruct(none).shape == (0, 16)
    assert len(index.add(X[:0], ids=none)) == 400


def test_neighbors_do_not_wrap() -> None:
    index = fpq.PQIndex(4, nbits=4, keep_vectors=True).fit(X).add(X)
    with pytest.raises(ValueError, match=r"^neighbors: expected ids below 2\*\*63"):
        index.tune(X[:2], k=1, neighbors=np.array([[2**63], [1]], np.uint64))


def test_sparse_matrices_get_a_hint() -> None:
    class Sparse:
        def toarray(self) -> None: ...

    with pytest.raises(TypeError, match=r"^X: expected .* got dtype object from Sparse; convert it by \.toarray\(\)$"):
        fpq.FlatIndex().add(Sparse())
