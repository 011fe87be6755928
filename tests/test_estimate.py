"""`estimate`: bytes, file, peak memory and time of an index that is to be built."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
from fpq import building, cli
from fpq.estimation import readable_bytes, readable_seconds
from fpq.indexes.e2lsh import MAX_TABLES

RNG = np.random.default_rng(0)


def clustered(n: int, d: int) -> np.ndarray:
    centres = RNG.normal(size=(200, d))
    return (centres[RNG.integers(0, 200, n)] + 0.7 * RNG.normal(size=(n, d))).astype(np.float32)


X = clustered(6000, 30)


def check(make: Callable[[], Any], x: np.ndarray, folder: Path, ids: np.ndarray | None = None) -> fpq.Estimate:
    """Compare an estimate with the index and its file."""
    found = fpq.estimate(*x.shape, make(), dtype=x.dtype, ids=ids is not None)
    index = make()
    if hasattr(index, "quantizer"):
        index.quantizer.n_iter = 2  # no size depends on it
    index.fit(x).add(x, ids)
    index.save(folder / "x.fpq")
    assert found.nbytes == pytest.approx(index.nbytes, rel=0.03)
    assert found.file_nbytes == pytest.approx((folder / "x.fpq").stat().st_size, rel=0.03)
    assert found.ratio == found.nbytes / (4 * x.size)
    return found


# ---- bytes ----


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "float64", "int32"])
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_kept_vectors(metric: Any, dtype: str, tmp_path: Path) -> None:
    x = np.abs(X * 20).astype(dtype)
    check(lambda: fpq.FlatIndex(metric), x, tmp_path)
    check(lambda: fpq.PQIndex(None, metric=metric, keep_vectors=True), x, tmp_path)
    check(lambda: fpq.IVFPQIndex(40, None, metric=metric, keep_vectors=True), x, tmp_path)


@pytest.mark.parametrize(("n", "d", "m", "n_lists"), [
    (5000, 8, 2, 10), (5000, 8, 8, 300), (9000, 24, 12, 1000), (40_000, 16, 16, 500), (20_000, 4, 2, 9000),
])  # fmt: skip
def test_codes(n: int, d: int, m: int, n_lists: int, tmp_path: Path) -> None:
    x = clustered(n, d)
    check(lambda: fpq.IVFPQIndex(n_lists, m), x, tmp_path)
    check(lambda: fpq.PQIndex(m, nbits=4, rotation="pca"), x, tmp_path)
    for refine in ("sq4", "sq6", "sq8"):
        check(lambda refine=refine: fpq.IVFPQIndex(n_lists, m, refine=refine), x, tmp_path)


OPTIONS: dict[str, Any] = {
    "rotation_dim": {"rotation": "pca", "rotation_dim": 20}, "opq": {"rotation": "opq"}, "nbits": {"nbits": 5},
    "open_indexing": {"open_indexing": 2.0}, "refine": {"refine": "sq6", "rotation": "pca"},
    "shared": {"open_indexing": fpq.OpenIndexing(scope="shared")},
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str, tmp_path: Path) -> None:
    check(lambda: fpq.PQIndex(None, **OPTIONS[name]), X, tmp_path)
    check(lambda: fpq.IVFPQIndex(20, None, residual=False, **OPTIONS[name]), X, tmp_path)
    check(lambda: fpq.IVFPQIndex(60, 7, list_capacity=1.0, keep_vectors=True, **OPTIONS[name]), X, tmp_path)


@pytest.mark.parametrize("d", [8, 40, 130])
def test_hashes(d: int, tmp_path: Path) -> None:
    x = clustered(9000, d)
    check(fpq.C2LSHIndex, x, tmp_path)
    check(lambda: fpq.C2LSHIndex(n_hashes=40, metric="cosine"), x.astype(np.float16), tmp_path)
    check(fpq.PMLSHIndex, x, tmp_path)
    check(lambda: fpq.PMLSHIndex(n_hashes=20, metric="cosine"), x.astype(np.float16), tmp_path)
    check(fpq.E2LSHIndex, x, tmp_path)
    check(lambda: fpq.E2LSHIndex(n_tables=3, n_hashes=9), x.astype(np.int8), tmp_path, ids=np.arange(9, 9009))
    check(lambda: fpq.E2LSHIndex(memory_limit=1_500_000), x, tmp_path)


def test_ids(tmp_path: Path) -> None:
    ids = RNG.permutation(len(X))
    makes: list[Callable[[], Any]] = [
        fpq.FlatIndex, lambda: fpq.PQIndex(6), lambda: fpq.IVFPQIndex(9, 6), fpq.E2LSHIndex, fpq.C2LSHIndex,
        fpq.PMLSHIndex,
    ]  # fmt: skip
    for make in makes:
        with_ids = check(make, X, tmp_path, ids)
        assert with_ids.nbytes - fpq.estimate(*X.shape, make()).nbytes == 8 * len(X)


def test_vectors_in_a_file_take_no_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    check(lambda: fpq.PQIndex(6, keep_vectors=tmp_path / "x.npy"), X, tmp_path)
    check(lambda: fpq.IVFPQIndex(9, 6, keep_vectors=str(tmp_path / "x.npy")), X, tmp_path)
    with pytest.raises(ValueError, match="keep_vectors: expected a file of shape"):
        fpq.estimate(6000, 31, fpq.PQIndex(6, keep_vectors=tmp_path / "x.npy"))


def test_a_subclass_counts_as_its_base() -> None:
    class Mine(fpq.PQIndex):
        pass

    assert fpq.estimate(1000, 32, Mine()).nbytes == fpq.estimate(1000, 32, fpq.PQIndex()).nbytes


def test_the_index_stays_as_it_was() -> None:
    index = fpq.IVFPQIndex(None, None).fit(X)
    before = repr(index)
    found = fpq.estimate(*X.shape, index.add(X[:10]))
    assert found.nbytes == pytest.approx(fpq.estimate(*X.shape, fpq.IVFPQIndex(None, None)).nbytes)
    assert repr(index).replace("n=10", "n=0").split("nbytes")[0] == before.split("nbytes")[0]


# ---- memory and time ----


@pytest.mark.parametrize("make", [
    fpq.FlatIndex, fpq.PQIndex, lambda: fpq.PQIndex(8, metric="cosine", keep_vectors=True), fpq.E2LSHIndex,
    fpq.C2LSHIndex, fpq.PMLSHIndex, lambda: fpq.IVFPQIndex(None, 8), lambda: fpq.PQIndex(rotation="pca", refine="sq4"),
])  # fmt: skip
def test_peak_of_the_arrays(make: Callable[[], Any]) -> None:
    """A rough check: `bench/estimates.py` measures the memory of the process at real sizes."""
    x = clustered(30_000, 32)
    make().fit(x[:2000])
    tracemalloc.start()
    try:
        make().fit(x).add(x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert fpq.estimate(*x.shape, make()).peak_nbytes - building.FIXED_BYTES == pytest.approx(peak, rel=0.4)


def test_time_grows_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "pace", lambda isa, n_threads: 2 / n_threads)

    def seconds(n: int, d: int, index: Any) -> float:
        return fpq.estimate(n, d, index).build_seconds

    base = seconds(10**6, 128, fpq.PQIndex(16, n_threads=1))
    assert (
        0 < seconds(10**5, 128, fpq.PQIndex(16, n_threads=1)) < base < seconds(10**6, 256, fpq.PQIndex(16, n_threads=1))
    )
    assert seconds(10**6, 128, fpq.PQIndex(16, n_threads=2)) < base
    for more in ({"m": 32}, {"rotation": "pca"}, {"refine": "sq8"}, {"keep_vectors": True}, {"metric": "cosine"}):
        assert seconds(10**6, 128, fpq.PQIndex(**more, n_threads=1)) > base  # type: ignore[arg-type]
    pca, opq = (seconds(10**6, 128, fpq.PQIndex(rotation=name)) for name in ("pca", "opq"))  # type: ignore[arg-type]
    assert pca < opq
    few, many = (seconds(10**6, 128, fpq.IVFPQIndex(n_lists)) for n_lists in (100, 4000))
    assert few < many
    few, many = (seconds(10**6, 128, fpq.E2LSHIndex(n_tables=tables)) for tables in (2, MAX_TABLES))
    assert few < many
    assert seconds(10**6, 128, fpq.C2LSHIndex(n_hashes=200)) > seconds(10**6, 128, fpq.FlatIndex()) > 0


def test_pace_is_measured_once() -> None:
    first = fpq.estimate(10**6, 128, fpq.PQIndex())
    assert first == fpq.estimate(10**6, 128, fpq.PQIndex())
    assert first.build_seconds == building.seconds(fpq.PQIndex(), 10**6, 128, np.dtype(np.float32))


# ---- the result, and errors ----


def test_the_result_is_readable_and_plain() -> None:
    found = fpq.estimate(np.int64(1_000_000), np.int32(128), fpq.FlatIndex(), ids=np.True_)  # type: ignore[arg-type]
    assert {type(value) for value in dataclasses.astuple(found)} == {int, float}
    assert repr(found) == str(found)
    assert "memory 524 MB (1.02 x float32 vectors), file 524 MB, peak 535 MB, build" in repr(found)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.nbytes = 3  # type: ignore[misc]


def test_units() -> None:
    sizes = [0, 999, 1000, 12_345, 999_499, 999_500, 1_234_567, 5 * 10**9, 2 * 10**12, 10**16]
    assert [readable_bytes(size) for size in sizes] == [
        "0 bytes", "999 bytes", "1.00 kB", "12.3 kB", "999 kB", "1.00 MB", "1.23 MB", "5.00 GB", "2.00 TB", "10000 TB",
    ]  # fmt: skip
    times = [0.0, 0.001234, 0.96, 1.0, 9.96, 119.4, 121.0, 3600.0, 7201.0, 360_000.0]
    assert [readable_seconds(each) for each in times] == [
        "0 s", "0.0012 s", "0.96 s", "1.0 s", "10 s", "120 s", "2.0 min", "60 min", "2.0 h", "100 h",
    ]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "message"), [
    ((0, 3, fpq.FlatIndex()), ValueError, "n: expected at least 1"),
    ((3, 0, fpq.FlatIndex()), ValueError, "d: expected at least 1"),
    ((3, 2.5, fpq.FlatIndex()), TypeError, "d: expected an integer"),
    ((3, 2, "ivfpq"), TypeError, "index: expected an index of one of the kinds FlatIndex, PQIndex, .* got a str"),
    ((3, 2, fpq.PQIndex), TypeError, "index: expected .* got the class PQIndex"),
    ((3, 2, fpq.KMeans(2)), TypeError, "PMLSHIndex, got a KMeans"),
    ((30, 2, fpq.PQIndex(8)), ValueError, "m: expected at most the 2 dimension"),
    ((30, 8, fpq.PQIndex(8, rotation="pca", rotation_dim=9)), ValueError, "rotation_dim: expected at most the 8"),
    ((30, 8, fpq.IVFPQIndex(31, 8)), ValueError, "n: expected at least one vector for each of the 31 lists, got 30"),
    ((1 << 32, 8, fpq.E2LSHIndex()), ValueError, "n: expected at most 4294967295 vectors"),
    ((1000, 8, fpq.E2LSHIndex(memory_limit=99)), ValueError, "memory_limit: expected at least"),
])  # fmt: skip
def test_bad_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fpq.estimate(*arguments)


def test_bad_options() -> None:
    with pytest.raises(TypeError, match="dtype: expected a type of real numbers, got 'nothing'"):
        fpq.estimate(10, 2, fpq.FlatIndex(), dtype="nothing")
    with pytest.raises(TypeError, match="dtype: expected a type of real numbers, got complex128"):
        fpq.estimate(10, 2, fpq.FlatIndex(), dtype=complex)
    with pytest.raises(TypeError, match=r"ids: expected True or False, got \[1\]"):
        fpq.estimate(10, 2, fpq.FlatIndex(), ids=[1])  # type: ignore[arg-type]


# ---- the command line ----


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--kind", "ivfpq", "--lists", "500", "--m", "25", "--keep-vectors", "--dtype", "uint8", "--ids"]
    assert cli.main(["estimate", "100000x64", *options]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    index = fpq.IVFPQIndex(500, 25, keep_vectors=True)
    found = fpq.estimate(100_000, 64, index, dtype=np.uint8, ids=True)
    assert shown["kind"] == "IVFPQIndex" and shown["n"] == "100000" and shown["dim"] == "64"
    assert shown["memory"].startswith(readable_bytes(found.nbytes)) and shown["build"]
    assert shown["file"] == readable_bytes(found.file_nbytes)
    assert shown["peak"].startswith(readable_bytes(found.peak_nbytes))


@pytest.mark.parametrize("kind", ["flat", "pq", "ivfpq", "e2lsh", "c2lsh", "pmlsh"])
def test_command_prints_json(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["estimate", "40_000x64", "--kind", kind, "--metric", "cosine", "--threads", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown) == [
        "kind", "n", "dim", "nbytes", "file_nbytes", "peak_nbytes", "build_seconds", "ratio",
    ]  # fmt: skip
    assert (shown["n"], shown["dim"]) == (40_000, 64)
    assert shown["peak_nbytes"] > shown["nbytes"] > 40_000


@pytest.mark.parametrize(("argv", "message"), [
    (["1000x16", "--lists", "4"], "--lists: not an option of --kind pq"),
    (["1000x8"], "m: expected at most the 8 dimension"),
    (["1000x8", "--kind", "e2lsh", "--memory-limit", "9"], "--memory-limit: expected at least"),
])  # fmt: skip
def test_command_errors(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["estimate", *argv]) in (1, 2)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("shape", ["1000", "x128", "0x128", "12x0", "1e6x3"])
def test_command_refuses_other_shapes(shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["estimate", shape])
    assert "argument NxD: expected" in capsys.readouterr().err
