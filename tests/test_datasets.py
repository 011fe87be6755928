"""Readers, the search for data sets, and the download, all without a network."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import urllib.error
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fpq import datasets

MNIST = Path(__file__).resolve().parent.parent / "bench" / "data" / "mnist"
MNIST_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
needs_mnist = pytest.mark.skipif(
    not all((MNIST / name).is_file() for name in MNIST_FILES),
    reason="the MNIST files are not in bench/data/mnist",
)
IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array: NDArray[Any]) -> bytes:
    code = IDX_CODES[array.dtype.str[1:]]
    head = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def vecs_bytes(array: NDArray[Any]) -> bytes:
    return b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in array)


def tiny_mnist() -> dict[str, bytes]:
    """Unpacked content of a data set of 3 + 2 images of 2 x 2 pixels, by packed file name."""
    pixels = np.arange(20, dtype=np.uint8).reshape(5, 2, 2)
    labels = np.array([4, 1, 4, 0, 1], np.uint8)
    arrays = (pixels[:3], labels[:3], pixels[3:], labels[3:])
    return {name: idx_bytes(array) for name, array in zip(MNIST_FILES, arrays, strict=True)}


def write_packed(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content))
    return folder


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No data set can be found: the checkout and the cache are empty folders."""
    monkeypatch.delenv("FPQ_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "__file__", str(tmp_path / "checkout" / "src" / "fpq" / "datasets.py"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that takes the place of the second MNIST source; the first is down."""
    folder = write_packed(tmp_path / "mirror", tiny_mnist())
    sums = {name: hashlib.md5(content).hexdigest() for name, content in tiny_mnist().items()}
    monkeypatch.setattr(datasets, "_MNIST_MD5", sums)
    urls = ((tmp_path / "down").as_uri() + "/", folder.as_uri() + "/")
    monkeypatch.setattr(datasets, "_MNIST_URLS", urls)
    return folder


# idx


@pytest.mark.parametrize("dtype", list(IDX_CODES))
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 4), (0, 28, 28)])
@pytest.mark.parametrize("packed", [False, True])
def test_read_idx(tmp_path: Path, dtype: str, shape: tuple[int, ...], packed: bool) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    data = idx_bytes(array)
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(data) if packed else data)
    read = datasets.read_idx(path)
    assert read.dtype == array.dtype
    assert read.dtype.isnative
    assert read.flags.writeable
    np.testing.assert_array_equal(read, array)


GOOD_IDX = idx_bytes(np.arange(6, dtype=np.int16).reshape(2, 3))


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", r"expected an idx file.*\(none\)"),
        (b"\0\0\x08", "expected an idx file"),
        (b"\x93NUMPY", "expected an idx file.*93 4e 55 4d"),
        (b"\0\1" + GOOD_IDX[2:], "expected an idx file"),
        (b"\0\0\x0a" + GOOD_IDX[3:], "expected an idx file"),
        (b"\0\0\x08\0", "expected an idx file"),
        (GOOD_IDX[:7], "expected a header of 12 bytes, got a file of 7"),
        (GOOD_IDX[:-1], r"expected 24 bytes for shape \(2, 3\) of int16, got 23"),
        (GOOD_IDX + b"\0", "expected 24 bytes .*, got 25"),
        (b"\0\0\x08\3" + b"\xff" * 12, "got 16"),
        (gzip.compress(GOOD_IDX, mtime=0)[:-9], "expected a gzip file"),
        (b"\0\0\x08\x63" + b"\0" * 4 * 0x63, "expected a shape"),
        (b"\x1f\x8b", "expected a gzip file"),
        (gzip.compress(GOOD_IDX, mtime=0)[:-8] + b"\0" * 8, "expected a gzip file"),
    ],
)
def test_damaged_idx(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "bad-ubyte"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"bad-ubyte: .*{match}"):
        datasets.read_idx(path)


# fvecs, bvecs, ivecs

VECS: dict[str, Any] = {
    "<f4": datasets.read_fvecs,
    "u1": datasets.read_bvecs,
    "<i4": datasets.read_ivecs,
}


@pytest.mark.parametrize("dtype", list(VECS))
@pytest.mark.parametrize("dim", [1, 3, 128])
def test_read_vecs(tmp_path: Path, dtype: str, dim: int) -> None:
    array = (np.arange(5 * dim).reshape(5, dim) % 250).astype(dtype)
    path = tmp_path / "x"
    path.write_bytes(vecs_bytes(array))
    read = VECS[dtype](path)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)
    np.testing.assert_array_equal(VECS[dtype](str(path), count=2), array[:2])
    assert not read.flags.writeable


def test_count_leaves_the_rest_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.ivecs"
    path.write_bytes(vecs_bytes(np.ones((2, 2), "<i4")) + struct.pack("<3i", 7, 1, 1))
    assert datasets.read_ivecs(path, count=2).tolist() == [[1, 1], [1, 1]]
    with pytest.raises(ValueError, match=r"x\.ivecs: expected length 2 .*, got 7 in row 2"):
        datasets.read_ivecs(path)


@pytest.mark.parametrize("count", [0, -1, 4])
def test_count_out_of_range(tmp_path: Path, count: int) -> None:
    path = tmp_path / "x.fvecs"
    path.write_bytes(vecs_bytes(np.ones((3, 2), "<f4")))
    with pytest.raises(ValueError, match=r"^count: expected 1 to 3, got"):
        datasets.read_fvecs(path, count=count)


def test_count_not_an_integer(tmp_path: Path) -> None:
    path = tmp_path / "x.fvecs"
    path.write_bytes(vecs_bytes(np.ones((3, 2), "<f4")))
    count: Any = 1.0
    with pytest.raises(TypeError, match=r"count: expected an integer, got 1\.0"):
        datasets.read_fvecs(path, count=count)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "expected at least 4 bytes, .*, got 0"),
        (b"\2\0\0", "expected at least 4 bytes, .*, got 3"),
        (struct.pack("<2i", 0, 0), "got 0 in row 0"),
        (struct.pack("<2i", -1, 0), "got -1 in row 0"),
        (struct.pack("<2i", 2, 0), "expected a multiple of 12 bytes, .*, got 8"),
        (struct.pack("<i", 2**31 - 1), "expected a multiple"),
        (vecs_bytes(np.ones((3, 4), "<f4"))[:-1], "expected a multiple"),
    ],
)
def test_damaged_vecs(tmp_path: Path, data: bytes, match: str) -> None:
    path = tmp_path / "bad.fvecs"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"bad\.fvecs: .*{match}"):
        datasets.read_fvecs(path)


# any file


def test_read_vectors_goes_by_the_name(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.save(tmp_path / "x.npy", array)
    (tmp_path / "x.bvecs").write_bytes(vecs_bytes(array))
    (tmp_path / "x.FVECS").write_bytes(vecs_bytes(array.astype("<f4")))
    (tmp_path / "x.ivecs").write_bytes(vecs_bytes(array.astype("<i4")))
    (tmp_path / "x-idx2-ubyte").write_bytes(idx_bytes(array))
    (tmp_path / "x.idx").write_bytes(idx_bytes(array))
    (tmp_path / "x-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array.reshape(3, 2, 2))))
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(datasets.read_vectors(path), array, err_msg=path.name)


def test_npy_is_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    assert isinstance(datasets.read_vectors(tmp_path / "x.npy"), np.memmap)


def test_labels_stay_flat(tmp_path: Path) -> None:
    (tmp_path / "y-idx1-ubyte").write_bytes(idx_bytes(np.array([3, 1], np.uint8)))
    assert datasets.read_vectors(tmp_path / "y-idx1-ubyte").tolist() == [3, 1]


def test_unknown_ending(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.csv: expected a name that ends in .*\.npy, \.fvecs"):
        datasets.read_vectors(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["x.npy", "x.fvecs", "x-ubyte"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError):
        datasets.read_vectors(tmp_path / name)


class Boom:
    """Unpickling this fails the test."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def npy_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def npz_bytes() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(3))
    return buffer.getvalue()


BAD_NPY = {
    "empty": b"",
    "short header": npy_bytes(np.ones(3))[:20],
    "short data": npy_bytes(np.ones((9, 9)))[:-8],
    "objects": npy_bytes(np.array([Boom()], object)),
    "pickle": pickle.dumps(Boom()),
    "archive": npz_bytes(),
    "broken archive": b"PK\3\4 no archive",
    "single number": npy_bytes(np.array(3.0)),
}


@pytest.mark.parametrize("kind", list(BAD_NPY))
def test_bad_npy(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.npy"
    path.write_bytes(BAD_NPY[kind])
    with pytest.raises(ValueError, match=r"bad\.npy: "):
        datasets.read_vectors(path)


@pytest.mark.parametrize("name", ["x.npy", "x.fvecs", "x.bvecs", "x.ivecs", "x-ubyte", "x.gz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_is_a_value_error(tmp_path: Path, name: str, data: st.DataObject) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 6)
    good = {
        "x.npy": npy_bytes(array),
        "x.fvecs": vecs_bytes(array.astype("<f4")),
        "x.bvecs": vecs_bytes(array),
        "x.ivecs": vecs_bytes(array.astype("<i4")),
        "x-ubyte": idx_bytes(array),
        "x.gz": gzip.compress(idx_bytes(array)),
    }[name]
    content = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / name
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        read = datasets.read_vectors(path)
        read.tobytes()
        message = name
    except ValueError as error:
        message = str(error)
    assert name in message


# load


def save_npy(folder: Path, **arrays: Any) -> Path:
    folder.mkdir(parents=True)
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array)
    return folder


def test_load_npy(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, query = np.ones((5, 3), np.uint8), np.zeros((2, 3), np.uint8)
    truth = np.array([[1, 2], [3, 4]])
    save_npy(nowhere / "data" / "toy", base=base, query=query, groundtruth=truth)
    monkeypatch.setenv("FPQ_DATA", os.pathsep.join(["", "absent", str(nowhere / "data")]))
    toy = datasets.load("toy")
    assert toy.name == "toy"
    assert isinstance(toy.base, np.memmap)
    np.testing.assert_array_equal(toy.base, base)
    np.testing.assert_array_equal(toy.query, query)
    assert toy.groundtruth is not None
    np.testing.assert_array_equal(toy.groundtruth, truth)
    assert toy.base_labels is None
    assert toy.query_labels is None


def test_load_labels(nowhere: Path) -> None:
    x = np.ones((2, 3), np.float32)
    folder = nowhere / "cache" / "fpq" / "toy"
    save_npy(folder, base=x, query=x, base_labels=[1, 2], query_labels=[3, 4])
    toy = datasets.load("toy")
    assert toy.groundtruth is None
    np.testing.assert_array_equal(toy.base_labels, [1, 2])
    np.testing.assert_array_equal(toy.query_labels, [3, 4])


def test_load_idx_layout(nowhere: Path) -> None:
    write_packed(nowhere / "cache" / "fpq" / "fashion", tiny_mnist())
    tiny = datasets.load("fashion")
    assert tiny.base.tolist() == np.arange(12).reshape(3, 4).tolist()
    assert tiny.query.tolist() == np.arange(12, 20).reshape(2, 4).tolist()
    np.testing.assert_array_equal(tiny.base_labels, [4, 1, 4])
    np.testing.assert_array_equal(tiny.query_labels, [0, 1])


def test_search_order(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [
        nowhere / "cache" / "fpq",
        nowhere / "checkout" / "bench" / "data",
        nowhere / "second",
        nowhere / "first",
    ]
    monkeypatch.setenv("FPQ_DATA", f"{places[3]}{os.pathsep}{places[2]}")
    for i, place in enumerate(places):
        save_npy(place / "toy", base=np.full((1, 1), i), query=np.full((1, 1), i))
        assert datasets.load("toy").base[0, 0] == i


def test_load_skips_an_incomplete_download(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPQ_DATA", str(nowhere / "half"))
    write_packed(nowhere / "half" / "mnist", dict(list(tiny_mnist().items())[:3]))
    write_packed(nowhere / "cache" / "fpq" / "mnist", tiny_mnist())
    assert datasets.load("mnist").base.shape == (3, 4)


def test_load_not_found(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPQ_DATA", str(nowhere / "mine"))
    with pytest.raises(FileNotFoundError, match="data set 'toy' not found") as caught:
        datasets.load("toy")
    message = str(caught.value)
    for folder in ("mine", os.path.join("bench", "data"), os.path.join("cache", "fpq")):
        assert os.path.join(folder, "toy") in message
    assert "FPQ_DATA" in message
    assert "base.npy" in message
    assert "fetch_mnist" not in message
    with pytest.raises(FileNotFoundError, match="fetch_mnist"):
        datasets.load("mnist")


@pytest.mark.skipif(Path("/usr/share/datasets/fashion-mnist").exists(), reason="it is installed")
def test_load_says_which_package_has_it(nowhere: Path) -> None:
    with pytest.raises(FileNotFoundError, match="install the package dataset-fashion-mnist") as caught:
        datasets.load("fashion-mnist")
    assert str(Path("/usr/share/datasets", "fashion-mnist")) in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "..", "../toy", "a/b", "a\\b", "c:toy"])
def test_load_bad_name(name: str) -> None:
    with pytest.raises(ValueError, match="name: expected a plain folder name"):
        datasets.load(name)


def test_load_name_not_a_str() -> None:
    name: Any = 5
    with pytest.raises(TypeError, match="name: expected a str, got 5"):
        datasets.load(name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"base": np.ones(3)},
        {"base": np.array(3.0)},
        {"query": np.ones((2, 4))},
        {"groundtruth": np.ones((3, 1), int)},
        {"groundtruth": np.ones(2, int)},
        {"base_labels": np.ones(4)},
        {"query_labels": np.ones((2, 1))},
    ],
)
def test_load_arrays_must_fit(nowhere: Path, wrong: dict[str, Any]) -> None:
    arrays = {"base": np.ones((5, 3)), "query": np.ones((2, 3))} | wrong
    save_npy(nowhere / "cache" / "fpq" / "toy", **arrays)
    with pytest.raises(ValueError, match=r"toy: expected arrays .*, got base \("):
        datasets.load("toy")


def test_load_without_queries(nowhere: Path) -> None:
    save_npy(nowhere / "cache" / "fpq" / "toy", base=np.ones((5, 3)))
    with pytest.raises(FileNotFoundError, match=r"query\.npy"):
        datasets.load("toy")


# fetch_mnist


def test_fetch_to_the_cache(nowhere: Path, mirror: Path) -> None:
    folder = datasets.fetch_mnist()
    assert folder == nowhere / "cache" / "fpq" / "mnist"
    assert sorted(p.name for p in folder.iterdir()) == sorted(MNIST_FILES)
    assert datasets.load("mnist").query.shape == (2, 4)


def test_fetch_leaves_good_files_and_replaces_bad_ones(mirror: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    contents = tiny_mnist()
    write_packed(target, contents)
    repacked, damaged, other, absent = MNIST_FILES
    (target / repacked).write_bytes(gzip.compress(contents[repacked], 1))
    (target / damaged).write_bytes(b"\x1f\x8b damaged")
    (target / other).write_bytes(gzip.compress(b"something else"))
    (target / absent).unlink()
    kept = (target / repacked).read_bytes()
    (mirror / repacked).unlink()
    assert datasets.fetch_mnist(str(target)) == target
    assert (target / repacked).read_bytes() == kept
    assert {n: gzip.decompress((target / n).read_bytes()) for n in MNIST_FILES} == contents


def test_fetch_refuses_other_content(mirror: Path, tmp_path: Path) -> None:
    (mirror / MNIST_FILES[1]).write_bytes(gzip.compress(b"something else"))
    with pytest.raises(ConnectionError, match="MD5 differs"):
        datasets.fetch_mnist(tmp_path / "target")
    assert [p.name for p in (tmp_path / "target").iterdir()] == [MNIST_FILES[0]]


@pytest.mark.parametrize(
    "reason",
    [urllib.error.URLError("no route"), TimeoutError("too slow"), IncompleteRead(b"", 5)],
)
def test_fetch_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, reason: Exception) -> None:
    asked = []

    def urlopen(url: str, timeout: float) -> Any:
        asked.append(url)
        assert timeout > 0
        raise reason

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(ConnectionError, match="by hand") as caught:
        datasets.fetch_mnist(tmp_path / "target")
    for text in (*MNIST_FILES, str(tmp_path / "target"), "FPQ_DATA", "--data", str(reason)):
        assert text in str(caught.value)
    assert asked == [
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "https://storage.googleapis.com/cvdf-datasets/mnist/train-images-idx3-ubyte.gz",
    ]
    assert list((tmp_path / "target").iterdir()) == []


def test_failed_write_leaves_nothing(mirror: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def replace(source: Any, target: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(PermissionError):
        datasets.fetch_mnist(tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == []


# the real files


@needs_mnist
def test_load_mnist(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FPQ_DATA", str(MNIST.parent))
    mnist = datasets.load("mnist")
    assert mnist.base.shape == (60_000, 784)
    assert mnist.query.shape == (10_000, 784)
    assert mnist.base.dtype == mnist.query.dtype == np.uint8
    assert mnist.groundtruth is None
    assert mnist.base_labels is not None
    assert mnist.query_labels is not None
    assert mnist.base_labels.dtype == mnist.query_labels.dtype == np.uint8
    assert mnist.base_labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]
    assert np.bincount(mnist.query_labels).sum() == 10_000
    assert mnist.base.mean() / 255 == pytest.approx(0.1307, abs=1e-4)


@needs_mnist
def test_mnist_files_need_no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_MNIST_URLS", ())
    assert datasets.fetch_mnist(MNIST) == MNIST
