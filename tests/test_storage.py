"""Files: what comes back, how they are written, golden files of each kind."""

from __future__ import annotations

import copy
import json
import os
import pickle
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import make

import fpq
from fpq import cli

RNG = np.random.default_rng(0)
X = RNG.normal(size=(700, 20)).astype(np.float32)
Q = RNG.normal(size=(5, 20)).astype(np.float32)
WIDE = np.hstack([X, X])  # wide enough for sketches
GOLDEN = sorted(path.stem for path in make.FOLDER.glob("*.fpq"))


def removed(index: Any) -> Any:
    index.remove(index.ids[10:30])
    return index


MAKERS = {
    "kmeans": lambda: fpq.KMeans(5, init="k-means++", capacity=2.0, seed=3),
    "kmeans fitted": lambda: fpq.KMeans(5).fit(X),
    "kmeans with init": lambda: fpq.KMeans(2, init=X[:2].tolist()).fit(X),
    "quantizer": lambda: fpq.ProductQuantizer(4, nbits=6, rotation="opq", rotation_dim=12),
    "quantizer random": lambda: fpq.ProductQuantizer(5, nbits=4, init="random"),
    "quantizer fitted": lambda: fpq.ProductQuantizer(3, nbits=5, rotation="pca", rotation_dim=11).fit(X),
    "quantizer open": lambda: fpq.ProductQuantizer(
        7, nbits=4, open_indexing=fpq.OpenIndexing(2, candidates=3, scope="shared")
    ).fit(X),
    "flat": lambda: fpq.FlatIndex("ip"),
    "flat no rows": lambda: fpq.FlatIndex().add(X[:0]),
    "flat l2": lambda: fpq.FlatIndex().add(X),
    "flat uint8": lambda: fpq.FlatIndex("ip").add((X * 40 + 128).astype(np.uint8)),
    "flat ids": lambda: removed(fpq.FlatIndex("cosine").add(X.astype(np.float16), ids=np.arange(700)[::-1] * 5)),
    "flat emptied": lambda: (lambda index: index.remove(index.ids) and index)(fpq.FlatIndex().add(X)),
    "pq": lambda: fpq.PQIndex(4, nbits=4, open_indexing=1.5, keep_vectors=True),
    "pq fitted": lambda: fpq.PQIndex(4, open_indexing=1.5).fit(X),
    "pq added": lambda: fpq.PQIndex(4, metric="ip").fit(X).add(X),
    "pq cosine": lambda: fpq.PQIndex(6, nbits=7, metric="cosine", rotation="opq").fit(X).add(X, ids=np.arange(700) + 9),
    "pq kept": lambda: removed(
        fpq.PQIndex(3, nbits=5, open_indexing=fpq.OpenIndexing(1.2, scope="shared"), keep_vectors=True)
        .fit(X)
        .add(X.astype(np.float16))
    ),
    "ivfpq": lambda: fpq.IVFPQIndex(8, 4, nbits=4, list_capacity=1.5, keep_vectors=True),
    "ivfpq fitted": lambda: fpq.IVFPQIndex(8, 4, nbits=4, open_indexing=1.5).fit(X),
    "ivfpq added": lambda: fpq.IVFPQIndex(8, 4, rotation="pca", keep_vectors=True).fit(X).add(X),
    "ivfpq ip": lambda: removed(
        fpq.IVFPQIndex(9, 4, nbits=5, residual=False, metric="ip", open_indexing=1.5, list_capacity=1.2).fit(X).add(X)
    ),
    "minhash": lambda: fpq.MinHashIndex(0.8, seed=1 << 100),
    "e2lsh": lambda: fpq.E2LSHIndex(n_tables=3, memory_limit=1 << 20),
    "e2lsh fitted": lambda: fpq.E2LSHIndex(width=4.0).fit(X),
    "e2lsh added": lambda: fpq.E2LSHIndex(n_tables=4, n_hashes=3).fit(X).add((X * 40 + 128).astype(np.uint8)),
    "e2lsh sketches": lambda: removed(fpq.E2LSHIndex(seed=3, metric="cosine").fit(WIDE).add(WIDE, np.arange(700) * 2)),
    "e2lsh emptied": lambda: (lambda index: index.remove(index.ids) and index)(
        fpq.E2LSHIndex(n_tables=2).fit(WIDE).add(WIDE)
    ),
    "c2lsh": lambda: fpq.C2LSHIndex(n_hashes=20, threshold=9, width=3.0),
    "c2lsh fitted": lambda: fpq.C2LSHIndex(beta=0.05).fit(WIDE),
    "c2lsh added": lambda: removed(
        fpq.C2LSHIndex(n_hashes=30, ratio=3.0, metric="cosine").fit(X).add(X.astype(np.float16))
    ),
    "pmlsh": lambda: fpq.PMLSHIndex(n_hashes=8, ratio=1.5, width=3.0),
    "pmlsh fitted": lambda: fpq.PMLSHIndex(delta=0.1).fit(WIDE),
    "pmlsh added": lambda: removed(fpq.PMLSHIndex(metric="cosine").fit(X).add(X.astype(np.float16))),
    "pmlsh sketches": lambda: fpq.PMLSHIndex(n_hashes=20).fit(WIDE).add(WIDE, np.arange(700) * 2),
    "c2lsh sketches": lambda: fpq.C2LSHIndex(n_hashes=30, delta=0.1).fit(WIDE).add(WIDE, np.arange(700) * 2),
}


def contents(thing: Any) -> Any:
    params, arrays = thing._state()
    return json.dumps(params), {name: (array.dtype, array.tobytes()) for name, array in arrays.items()}


@pytest.fixture(params=MAKERS)
def thing(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and contents(a) == contents(b)


@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_loaded_is_what_was_saved(thing: Any, mmap: bool, tmp_path: Path) -> None:
    thing.save(tmp_path / "a")
    loaded = fpq.load(tmp_path / "a", mmap=mmap)
    loaded.verify()
    assert same(loaded, thing)
    loaded.save(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@pytest.mark.parametrize("mmap", [False, True])
def test_loaded_indexes_answer_alike(thing: Any, mmap: bool, tmp_path: Path) -> None:
    if isinstance(thing, (fpq.KMeans, fpq.ProductQuantizer)) or thing.dim is None:
        pytest.skip("nothing to search")
    queries = Q if thing.dim == 20 else WIDE[:5] + 0.1
    thing.save(tmp_path / "a")
    loaded = fpq.load(tmp_path / "a", mmap=mmap)
    kept = {"rerank": 3} if getattr(thing, "keep_vectors", False) else {}
    for a, b in (
        (thing.search(queries, k=9, **kept), loaded.search(queries, k=9, **kept)),
        (thing.search(queries[0], k=3, allowed=thing.ids[:50]), loaded.search(queries[0], k=3, allowed=thing.ids[:50])),
        (thing.range_search(queries, 5.0), loaded.range_search(queries, 5.0)),
        ([thing.reconstruct(thing.ids[:4])], [loaded.reconstruct(thing.ids[:4])]),
    ):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_loaded_indexes_go_on_alike(thing: Any, tmp_path: Path) -> None:
    thing.save(tmp_path / "a")
    loaded = fpq.load(tmp_path / "a")
    for each in (thing, loaded):
        if isinstance(each, (fpq.KMeans, fpq.ProductQuantizer)):
            each.fit(X[:300])
            continue
        if not each.is_trained:
            each.fit(X)
        if isinstance(each, fpq.MinHashIndex):
            each.add(make.sets(1, 40)).remove(each.ids[::3])
            continue
        rows = X if each.dim in (None, 20) else WIDE
        each.add(rows[:100].astype(np.float16)).remove(each.ids[::3])
    assert same(loaded, thing)


def test_pickle_and_copy(thing: Any) -> None:
    thing.n_threads = 1
    thing.verbose = True
    for other in (pickle.loads(pickle.dumps(thing)), copy.deepcopy(thing), copy.copy(thing)):
        assert same(other, thing)
        assert (other.n_threads, other.verbose) == (1, True)


def test_safetensors_reads_the_arrays(thing: Any, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    thing.save(tmp_path / "a")
    arrays = thing._state().arrays
    with safetensors.safe_open(tmp_path / "a", "np") as file:
        assert file.metadata()["kind"] == type(thing).__name__
        assert set(file.keys()) == set(arrays)
        for name in arrays:
            np.testing.assert_array_equal(file.get_tensor(name), arrays[name])


def test_arrays_are_aligned_in_the_file(thing: Any, tmp_path: Path) -> None:
    thing.save(tmp_path / "a")
    for name, extent in fpq.storage.describe(tmp_path / "a").arrays.items():
        assert extent.start % (64 if name == "codes" else extent.dtype.itemsize) == 0


@pytest.mark.parametrize(
    "make", [lambda: fpq.PQIndex(4), lambda: fpq.IVFPQIndex(5, 4), fpq.E2LSHIndex, fpq.C2LSHIndex, fpq.PMLSHIndex]
)
def test_mapped_index_refuses_changes(make: Any, tmp_path: Path) -> None:
    make().fit(X).add(X).save(tmp_path / "a")
    index = fpq.load(tmp_path / "a", mmap=True)
    for change in (lambda: index.add(X), lambda: index.remove([1]), lambda: index.fit(X)):
        with pytest.raises(ValueError, match="mmap=False"):
            change()
    assert len(index) == 700


def test_mapped_arrays_stay_in_the_file(tmp_path: Path) -> None:
    fpq.FlatIndex().add(X, ids=np.arange(700) + 1).save(tmp_path / "a")
    index = fpq.load(tmp_path / "a", mmap=True)
    for array in (index._vectors.data, index._norms.data, index._ids.native):
        assert not array.flags.writeable and not array.flags.owndata
    pickled = pickle.loads(pickle.dumps(index))  # a copy of its own
    pickled.add(X[:1])


@pytest.mark.skipif(os.name != "posix", reason="Windows does not replace a mapped file")
def test_saving_over_the_file_a_mapped_index_is_in(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fpq.FlatIndex().add(X).save(path)
    index = fpq.load(path, mmap=True)
    before = index.search(Q)
    fpq.FlatIndex().add(X[:10]).save(path)
    np.testing.assert_array_equal(index.search(Q).ids, before.ids)
    index.save(path)
    assert len(fpq.load(path)) == 700


@pytest.mark.skipif(os.name != "nt", reason="other systems replace a mapped file")
def test_windows_keeps_a_file_that_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fpq.FlatIndex().add(X).save(path)
    index = fpq.load(path, mmap=True)
    for saved in (index, fpq.FlatIndex().add(X[:10])):
        with pytest.raises(PermissionError, match=r"expected a file that may be replaced, .* mapped: .*a'"):
            saved.save(path)
    assert os.listdir(tmp_path) == ["a"] and len(fpq.load(path)) == 700
    del index
    fpq.FlatIndex().add(X[:10]).save(path)
    assert len(fpq.load(path)) == 10


@pytest.mark.parametrize("name", ["with spaces  in it", "größe ñ", "日本 😀"])
def test_names_of_files(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for path in (folder / name, str(folder / name)):
        fpq.FlatIndex().add(X).save(path)
        assert len(fpq.load(path)) == len(fpq.load(path, mmap=True)) == 700
        assert fpq.storage.describe(path).kind == "FlatIndex"
        assert os.listdir(folder) == [name]
        assert cli.main(["info", str(path)]) == 0 and "FlatIndex" in capsys.readouterr().out


@pytest.mark.parametrize("make", [lambda: fpq.PQIndex(4), lambda: fpq.C2LSHIndex(n_hashes=20), fpq.PMLSHIndex])
def test_removed_vectors_do_not_get_into_files(make: Any) -> None:
    index = make().fit(X).add(X)
    index.remove(np.arange(600, 700))
    again = make().fit(X).add(X[:600])
    assert contents(index)[1]["codes"] == contents(again)[1]["codes"]


def test_damage_that_mapping_leaves_to_verify(tmp_path: Path) -> None:
    path = tmp_path / "a"
    fpq.FlatIndex().add(X).save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(fpq.FormatError, match=r"a: .*damaged"):
        fpq.load(path)
    index = fpq.load(path, mmap=True)
    with pytest.raises(fpq.FormatError, match="damaged"):
        index.verify()


@pytest.mark.skipif(os.name != "posix", reason="modes and links")
def test_modes_and_links(tmp_path: Path) -> None:
    path = tmp_path / "a"
    umask = os.umask(0o027)
    try:
        fpq.FlatIndex().save(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(umask)
    path.chmod(0o604)
    (tmp_path / "link").symlink_to(path)
    fpq.FlatIndex("ip").save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and stat.S_IMODE(path.stat().st_mode) == 0o604
    assert fpq.load(path).metric == "ip"


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        fpq.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        fpq.load(tmp_path / "missing")
    with pytest.raises(OSError):
        fpq.FlatIndex().save(tmp_path)
    with pytest.raises(OSError):
        fpq.FlatIndex().save(tmp_path / "no folder" / "a")
    if sys.platform == "linux":
        with pytest.raises(fpq.FormatError, match="regular"):
            fpq.load("/dev/zero")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(fpq.FormatError, match="regular"):
            fpq.load(tmp_path / "pipe")


def test_other_formats_and_versions(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for data, message in {
        b"": "it is empty",
        b"fpq": "it looks like text",
        b"PK\3\4" * 50: "it looks like a zip archive",
        b"\x89HDF\r\n\x1a\n" * 9: "it looks like an HDF5 file",
        b"\x93NUMPY\1\0" * 9: r"it looks like a \.npy file",
        b"\x1f\x8b\x08\0\0\0\0\0\0": "it looks like a gzip file",
        b"query\trank\tid\n": "it looks like text",
        b'{"format": "fpq-manifest"}': r"a manifest of shards is opened by fpq\.ShardedIndex",
        np.array(
            [[3, 1, 2, 3]] * 5, "<i4"
        ).tobytes(): r"it looks like an \.fvecs, \.ivecs or \.bvecs file of dimension 3",
        np.array([[2, 0, 0]] * 5, "<i4").tobytes(): r"it looks like an \.fvecs, \.ivecs or \.bvecs file of dimension 2",
        b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7": "it begins with the bytes ff fe fd fc fb fa f9 f8",
        b"\2\0\0\0\0\0\0\0{}": "a safetensors file written by another program",
        b"\2\0\0\0\0\0\0\0[]": "it begins with the bytes 02 00",
    }.items():
        path.write_bytes(data)
        with pytest.raises(fpq.FormatError, match=rf"a: not an fpq file \(.*{message}"):
            fpq.load(path)
    for data, message in {b"\x93NUMPY\1\0" * 9: r"it looks like a \.npy", b"{]": "expected a manifest"}.items():
        path.write_bytes(data)
        with pytest.raises(fpq.FormatError, match=message):
            fpq.ShardedIndex(path)
    fpq.FlatIndex().save(path)
    with pytest.raises(fpq.FormatError, match=r"expected a manifest \(JSON\): fpq\.load opens"):
        fpq.ShardedIndex(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(fpq.FormatError, match="cut short"):
        fpq.load(path)
    path.write_bytes(whole)
    path.write_bytes(path.read_bytes().replace(b'"version":"1"', b'"version":"2"'))
    with pytest.raises(fpq.FormatError, match="newer fpq"):
        fpq.load(path)


def test_infinite_inertia_is_stored(tmp_path: Path) -> None:
    kmeans = fpq.KMeans(2).fit(X)
    kmeans.inertia = float("inf")
    kmeans.save(tmp_path / "a")
    assert fpq.load(tmp_path / "a").inertia == float("inf")


def test_info(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a"
    fpq.PQIndex(4, nbits=5).fit(X).add(X).save(path)
    assert cli.main(["info", str(path), "--verify"]) == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["kind"] == "PQIndex" and shown["quantizer.nbits"] == "5"
    assert shown["codes"] == "uint8 11x3x64, 2112 bytes" and shown["checked"] == "all data"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert cli.main(["info", str(path)]) == 0
    assert cli.main(["info", str(path), "--verify"]) == 1
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("mmap", [False, True])
def test_golden_files(name: str, mmap: bool, tmp_path: Path) -> None:
    path = make.FOLDER / f"{name}.fpq"
    thing = fpq.load(path, mmap=mmap)
    with np.load(path.with_suffix(".npz")) as recorded:
        now = make.answers(thing)
        np.testing.assert_array_equal(now["ids"], recorded["ids"])
        np.testing.assert_allclose(now["distances"], recorded["distances"], rtol=1e-5, atol=1e-5)
    thing.save(tmp_path / "a")
    if name not in make.BY_SLOT:
        assert (tmp_path / "a").read_bytes() == path.read_bytes()
        return
    again = fpq.load(tmp_path / "a", mmap=mmap)
    answers = again.search(thing.reconstruct(thing.ids)), thing.search(again.reconstruct(thing.ids))
    for now, before in zip(*answers, strict=True):
        np.testing.assert_array_equal(now, before)
    before, now = (
        {array: extent.digest for array, extent in fpq.storage.describe(each).arrays.items() if array not in BY_ROW}
        for each in (path, tmp_path / "a")
    )
    assert now == before


BY_ROW = {"refine_first", "refine_second", "refine_gains", "refine_norms"}


def test_there_is_a_golden_file_of_each_kind() -> None:
    assert sorted(make.RECIPES) == GOLDEN
    kinds = {fpq.storage.describe(make.FOLDER / f"{name}.fpq").kind for name in GOLDEN}
    assert kinds == set(fpq.storage.Storable._kinds)


def test_the_expected_class(tmp_path: Path) -> None:
    fpq.FlatIndex().add(X[:9]).save(tmp_path / "flat")
    assert len(fpq.load(tmp_path / "flat", fpq.FlatIndex)) == 9
    with pytest.raises(fpq.FormatError, match="flat: expected a saved PQIndex, got a saved FlatIndex"):
        fpq.load(tmp_path / "flat", fpq.PQIndex, mmap=True)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    with pytest.raises(FileNotFoundError) as caught:
        fpq.FlatIndex().save(folder / "i.fpq")
    assert str(caught.value) == f"{folder / 'i.fpq'}: expected an existing folder, got {folder}"
