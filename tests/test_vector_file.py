"""Indexes whose vectors lie in a .npy file: the same answers as with vectors in memory, and what is refused."""

from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from links import symlink

import fpq

D = 12
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(1200, D)) * 20 + 60).clip(0, 127)
Q = (RNG.normal(size=(9, D)) * 20 + 60).astype(np.float32)
KINDS: dict[str, Any] = {
    "PQIndex": lambda **options: fpq.PQIndex(4, nbits=4, **options),
    "IVFPQIndex": lambda **options: fpq.IVFPQIndex(12, 4, nbits=4, **options),
}
BOTH = pytest.mark.parametrize("kind", KINDS)


def stored(folder: Path, x: Any = X, name: str = "x.npy") -> str:
    np.save(folder / name, x)
    return str(folder / name)


def same(ours: Any, theirs: Any) -> None:
    for mine, yours in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, yours)


@BOTH
@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8, np.int8])
def test_same_answers_as_with_vectors_in_memory(kind: str, metric: str, dtype: Any, tmp_path: Path) -> None:
    x = X.astype(dtype)
    path = stored(tmp_path, x)
    before = Path(path).read_bytes()
    rounded = dtype == np.float16 and metric == "cosine"  # rows of length 1 in memory, but not those of a file
    inside = KINDS[kind](metric=metric, keep_vectors=True).fit(x).add(x.astype(np.float32) if rounded else x)
    outside = KINDS[kind](metric=metric, keep_vectors=Path(path)).fit(x).add(x[:700]).add(x[700:])
    for _ in range(2):
        for options in ({"rerank": 5}, {"rerank": 1000}, {"rerank": 3, "allowed": [1000, 800, 1100]}):
            same(outside.search(Q, 7, **options), inside.search(Q, 7, **options))
        same(outside.search(Q[0], 4, rerank=9), inside.search(Q[0], 4, rerank=9))
        np.testing.assert_array_equal(outside.reconstruct([1000, 900]), inside.reconstruct([1000, 900]))
        assert outside.remove(np.arange(0, 500, 3)) == inside.remove(np.arange(0, 500, 3))
    outside.add(x[:1], ids=[0])
    assert outside.nbytes < inside.nbytes
    assert Path(path).read_bytes() == before
    assert outside.tune(Q, k=3, recall=0.5).best.recall >= 0.5


@BOTH
def test_saved_with_its_path(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stored(tmp_path)
    ids = RNG.permutation(len(X))
    index = KINDS[kind](keep_vectors="x.npy", metric="cosine").fit(X).add(X[ids], ids)
    index.save("index.fpq")
    for again in (fpq.load("index.fpq"), fpq.load("index.fpq", mmap=True), pickle.loads(pickle.dumps(index))):
        same(again.search(Q, 5, rerank=4), index.search(Q, 5, rerank=4))
        assert again.keep_vectors == "x.npy"
        again.verify()
    again.add(X[:0])
    assert "vectors" not in fpq.storage.describe("index.fpq").arrays
    fpq.load("index.fpq").save("again.fpq")
    assert Path("again.fpq").read_bytes() == Path("index.fpq").read_bytes()


@BOTH
@pytest.mark.parametrize("mmap", [False, True])
def test_another_file_at_load(kind: str, mmap: bool, tmp_path: Path) -> None:
    path = stored(tmp_path)
    index = KINDS[kind](keep_vectors=path).fit(X).add(X)
    index.save(tmp_path / "index.fpq")
    del index
    for other, message in (
        (X[:-1], r"expected f8 of shape \[1200, 12\] in .*, got f8 of shape \[1199, 12\]"),
        (X.astype(np.float32), "got f4 of shape"),
        (X[:, :-1], r"got f8 of shape \[1200, 11\]"),
        (X[0], "expected an array"),
    ):
        gc.collect()  # Windows does not truncate a file that is mapped
        stored(tmp_path, other)
        with pytest.raises(fpq.FormatError, match=message):
            fpq.load(tmp_path / "index.fpq", mmap=mmap)
    gc.collect()
    Path(path).write_bytes(Path(path).read_bytes()[:-8])
    with pytest.raises(fpq.FormatError, match=r"keep_vectors: .* cannot (be )?read"):
        fpq.load(tmp_path / "index.fpq", mmap=mmap)
    gc.collect()
    Path(path).unlink()
    with pytest.raises(fpq.FormatError, match="keep_vectors: the file of the vectors cannot be read"):
        fpq.load(tmp_path / "index.fpq", mmap=mmap)


@pytest.mark.parametrize(
    "about",
    ["x.npy", 3, None, [], {"path": "x.npy"}, {"path": 3, "shape": [1, 2], "dtype": "f4"}, {"path": "\0"}],
)
def test_hostile_parameters(about: Any, tmp_path: Path) -> None:
    for name in ("pq", "ivfpq"):
        kind, params, arrays = hostile.read((hostile.make.FOLDER / f"{name}.fpq").read_bytes())
        params["keep_vectors"] = {**about, "shape": [1], "dtype": "f4"} if isinstance(about, dict) else about
        (tmp_path / "a").write_bytes(hostile.write(kind, params, arrays))
        with pytest.raises(fpq.FormatError):
            fpq.load(tmp_path / "a")


def test_mapped_slot_ids_beyond_the_file(tmp_path: Path) -> None:
    index = KINDS["IVFPQIndex"](keep_vectors=stored(tmp_path)).fit(X).add(X)
    kind, params, arrays = hostile.read(b"".join(index._pieces()))
    arrays["slot_ids"] = np.full_like(arrays["slot_ids"], 10**12, dtype=np.int64)
    (tmp_path / "a").write_bytes(hostile.write(kind, params, arrays))
    with pytest.raises(fpq.FormatError, match="slot_ids"):
        fpq.load(tmp_path / "a", mmap=True).search(Q, 3, rerank=2)


@BOTH
def test_refused_and_nothing_changed(kind: str, tmp_path: Path) -> None:
    make = KINDS[kind]
    with pytest.raises(FileNotFoundError):
        make(keep_vectors=tmp_path / "none.npy")
    for x, message in (
        (X.astype(np.int32), "expected float32, float64, float16, uint8, int8"),
        (X.astype(">f4"), "native byte order"),
        (np.asfortranarray(X), "Fortran order"),
        (X[0], r"expected an array \(n, d\)"),
        (X[:, :0], r"expected an array \(n, d\)"),
        (np.array([{}]), "cannot read"),
    ):
        np.save(tmp_path / "bad.npy", x, allow_pickle=True)
        with pytest.raises(ValueError, match=f"^keep_vectors: .*{message}"):
            make(keep_vectors=tmp_path / "bad.npy")
    (tmp_path / "text.npy").write_text("no numbers")
    np.savez(tmp_path / "many.npz", X, X)
    for path in (tmp_path / "text.npy", tmp_path / "many.npz", tmp_path):
        with pytest.raises(ValueError, match=r"^keep_vectors: expected a \.npy file"):
            make(keep_vectors=path)
    index = make(keep_vectors=stored(tmp_path))
    with pytest.raises(ValueError, match=r"keep_vectors: expected a file of shape \(n, 11\), got \(1200, 12\)"):
        index.fit(X[:, :11])
    assert not index.is_trained
    index.fit(X).add(X[:1000])
    for ids in (None, np.arange(1001, 1301)):
        with pytest.raises(ValueError, match="ids: expected ids below 1200, the rows of"):
            index.add(np.concatenate([X[:300]]), ids)
    assert len(index) == 1000
    assert index.add(X[1000:]).ids.max() == 1199


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ValueError, match="not a regular file"):
        fpq.PQIndex(keep_vectors=tmp_path / "pipe.npy")


@BOTH
def test_never_saved_over_the_vectors(kind: str, tmp_path: Path) -> None:
    path = stored(tmp_path)
    before = Path(path).read_bytes()
    os.link(path, tmp_path / "linked")
    symlink(tmp_path / "pointed", "x.npy")
    index = KINDS[kind](keep_vectors=path).fit(X).add(X)
    for name in ("x.npy", "linked", "pointed"):
        with pytest.raises(ValueError, match=r"expected another file to write to than the input .*x\.npy"):
            index.save(tmp_path / name)
    assert Path(path).read_bytes() == before
