"""Shards: the same answers as one index, changes while serving, missing and foreign files."""

from __future__ import annotations

import copy
import gc
import itertools
import json
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq

RNG = np.random.default_rng(0)
N = 1500
X = RNG.normal(size=(N, 13)).astype(np.float32)
X[700:750] = X[:50]  # ties across shards
Q = np.concatenate([X[:4], RNG.normal(size=(5, 13)).astype(np.float32)])
MAKERS = {
    "flat l2": fpq.FlatIndex,
    "flat ip": lambda: fpq.FlatIndex("ip"),
    "pq l2": lambda: fpq.PQIndex(4, keep_vectors=True).fit(X),
    "pq ip": lambda: fpq.PQIndex(5, nbits=4, metric="ip", keep_vectors=True).fit(X),
    "pq cosine": lambda: fpq.PQIndex(4, nbits=6, metric="cosine", rotation="pca", keep_vectors=True).fit(X),
    "ivf l2": lambda: fpq.IVFPQIndex(20, 4, keep_vectors=True).fit(X),
    "ivf ip": lambda: fpq.IVFPQIndex(9, 4, nbits=5, metric="ip", residual=False, keep_vectors=True).fit(X),
    "e2lsh l2": lambda: fpq.E2LSHIndex(n_tables=3).fit(X),
    "e2lsh cosine": lambda: fpq.E2LSHIndex(n_tables=2, metric="cosine").fit(X),
    "ivf cosine": lambda: fpq.IVFPQIndex(9, 4, nbits=4, metric="cosine", keep_vectors=True).fit(X),
}


def bounds(parts: int) -> list[tuple[int, int]]:
    cuts = np.linspace(0, N, parts + 1).astype(int)
    return list(itertools.pairwise(cuts))


def shards(make: Any, folder: Path, parts: int, x: np.ndarray = X) -> fpq.ShardedIndex:
    """Shards of unequal ways to number: by offset, and by ids of their own."""
    files, offsets = [], []
    for i, (start, end) in enumerate(bounds(parts)):
        own = i % 2 == 1
        files.append(folder / f"{i}.fpq")
        make().add(x[start:end], ids=np.arange(start, end) if own else None).save(files[-1])
        offsets.append(0 if own else int(start))
    return fpq.ShardedIndex.create(folder / "manifest.json", files[::-1], offsets=offsets[::-1])


posix_files = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete or replace a mapped file")


def same(a: Any, b: Any) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_in(tmp_path: Path) -> None:
    index = shards(fpq.FlatIndex, tmp_path, 3)
    assert all(number in index for number in range(N))
    assert not any(other in index for other in (-1, N, 2**70, 1.0, "1", None, True))
    with pytest.raises(TypeError, match=r"^ids: expected one integer, got list"):
        [1] in index  # noqa: B015
    del index  # Windows does not delete a mapped file
    gc.collect()
    (tmp_path / "1.fpq").unlink()
    damaged = fpq.ShardedIndex(tmp_path / "manifest.json", allow_partial=True)
    assert 0 in damaged and N - 1 in damaged and N // 2 not in damaged


@pytest.mark.parametrize("parts", [1, 2, 7, 50])
@pytest.mark.parametrize("name", MAKERS)
def test_shards_answer_as_one_index(name: str, parts: int, tmp_path: Path) -> None:
    make = MAKERS[name]
    one, many = make().add(X), shards(make, tmp_path, parts)
    assert len(many) == N and len(many.shards) == parts and (many.dim, many.metric) == (13, one.metric)
    few = RNG.choice(N + 20, 60, replace=False)
    mask = np.isin(np.arange(N + 3), few)
    for options in ({}, {"allowed": few}, {"allowed": mask}, {"n_threads": 2}, {"allowed": []}):
        for k in (1, 10, 200):
            same(many.search(Q, k, **options), one.search(Q, k, **options))
        radius = float(one.search(Q, 30).distances[:, -1].mean())
        same(many.range_search(Q, radius, **options), one.range_search(Q, radius, **options))
    same(many.search(Q[0], 3), one.search(Q[0], 3))
    same(many.search(Q[:0], 3), one.search(Q[:0], 3))
    same(many.search(Q[:2], N + 7), one.search(Q[:2], N + 7))
    if "pq" in name or "ivf" in name:
        for rerank in (1, 3, 10**6):
            same(many.search(Q, 6, rerank=rerank), one.search(Q, 6, rerank=rerank))
            same(many.search(Q, 6, rerank=rerank, allowed=few), one.search(Q, 6, rerank=rerank, allowed=few))
    if "e2lsh" in name:
        for n_probe in (1, 40):
            same(many.search(Q, 5, n_probe=n_probe), one.search(Q, 5, n_probe=n_probe))
    if "ivf" in name:
        same(many.search(Q, 5, n_probe=2, rerank=2), one.search(Q, 5, n_probe=2, rerank=2))
        same(many.search(Q, 5, n_probe=99), one.search(Q, 5, n_probe=99))
        same(many.range_search(Q, 9.0, n_probe=3), one.range_search(Q, 9.0, n_probe=3))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "float16", "float64"])
def test_other_element_types(dtype: str, tmp_path: Path) -> None:
    x = (X * 20 + 60).clip(0, 120).astype(dtype)
    same(shards(fpq.FlatIndex, tmp_path, 7, x).search(x[:9], 11), fpq.FlatIndex().add(x).search(x[:9], 11))


def test_merging_some_at_a_time_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = shards(MAKERS["pq l2"], tmp_path, 7)
    expected = many.search(Q, 5, rerank=4)
    monkeypatch.setattr("fpq.sharding.merge.MERGE_VALUES", 10)
    same(many.search(Q, 5, rerank=4), expected)


def test_shards_are_added_and_dropped_while_others_are_served(tmp_path: Path) -> None:
    many = shards(fpq.FlatIndex, tmp_path, 5)
    lacking = fpq.FlatIndex().add(X[:1200])
    whole = fpq.FlatIndex().add(X)
    answers = [index.search(Q, 9).ids.tolist() for index in (whole, lacking)]
    seen, stop = [], threading.Event()

    def serve() -> None:
        while not stop.is_set():
            seen.append(many.search(Q, 9).ids.tolist())

    server = threading.Thread(target=serve)
    server.start()
    for _ in range(20):
        assert many.drop_shard("4.fpq") == 300
        same(many.search(Q, 9), lacking.search(Q, 9))
        many.add_shard(tmp_path / "4.fpq", offset=1200)
    stop.set()
    server.join()
    assert seen and all(answer in answers for answer in seen)
    same(fpq.ShardedIndex(tmp_path / "manifest.json").search(Q, 9), whole.search(Q, 9))
    assert many.nbytes > X.nbytes
    for file in many.shards:
        many.drop_shard(file)
    assert len(many) == 0 and (many.search(Q, 2).ids == -1).all() and many.range_search(Q, 9.0).ids.size == 0
    many.add_shard(tmp_path / "1.fpq")
    assert many.shards == ["1.fpq"]


@posix_files
def test_missing_and_foreign_shards_are_named(tmp_path: Path) -> None:
    many = shards(MAKERS["pq l2"], tmp_path, 4)
    manifest = tmp_path / "manifest.json"
    (tmp_path / "1.fpq").rename(tmp_path / "away")
    fpq.PQIndex(4, keep_vectors=True, seed=1).fit(X).add(X[:375]).save(tmp_path / "2.fpq")
    same(many.search(Q, 5), MAKERS["pq l2"]().add(X).search(Q, 5))  # an opened index keeps what it has mapped
    with pytest.raises(fpq.FormatError, match=r"2 of 4 shards .* 1\.fpq: .*No such file.*2\.fpq.* expected the traini"):
        fpq.ShardedIndex(manifest)
    partial = fpq.ShardedIndex(manifest, allow_partial=True)
    found = partial.search(Q, 5)
    assert sorted(found.missing) == ["1.fpq", "2.fpq"] == sorted(partial.range_search(Q, 3.0).missing)
    left = np.r_[0:375, 1125:1500]
    same(found, MAKERS["pq l2"]().add(X[left], ids=left).search(Q, 5))
    (tmp_path / "away").rename(tmp_path / "1.fpq")
    assert list(partial.search(Q, 5).missing) == ["2.fpq"]  # back again
    MAKERS["pq l2"]().add(X[1:376]).save(tmp_path / "0.fpq")
    with pytest.raises(fpq.FormatError, match=r"0\.fpq: expected the file with digest"):
        fpq.ShardedIndex(manifest)


@posix_files
def test_damage(tmp_path: Path) -> None:
    many = shards(MAKERS["ivf l2"], tmp_path, 3)
    many.verify()
    data = bytearray((tmp_path / "1.fpq").read_bytes())
    data[-1] ^= 1
    (tmp_path / "1.fpq").unlink()
    (tmp_path / "1.fpq").write_bytes(data)
    with pytest.raises(fpq.FormatError, match=r"1\.fpq: .*digest"):
        fpq.ShardedIndex(tmp_path / "manifest.json").verify()
    (tmp_path / "1.fpq").unlink()
    (tmp_path / "1.fpq").write_bytes(data[:-5])
    with pytest.raises(fpq.FormatError, match=r"1 of 3 shards .*1\.fpq: expected a file of"):
        fpq.ShardedIndex(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version: expected 1, got 2"),
        ({"format": "fpq"}, "format"),
        ({"kind": "KMeans"}, "kind"),
        ({"dim": "13"}, "dim of type int"),
        ({"more": 1}, "with format"),
        ({"shards": [{}]}, r"shards\[0\]"),
        ({"shards": {}}, "type list"),
    ],
)
def test_bad_manifests(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    shards(fpq.FlatIndex, tmp_path, 2)
    path = tmp_path / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **change}))
    with pytest.raises(fpq.FormatError, match=message):
        fpq.ShardedIndex(path)
    for key, value in (("n", 0), ("first", -1), ("last", 10**30), ("offset", 5000), ("n", True)):
        broken = {**content, "shards": [{**content["shards"][0], key: value}]}
        path.write_text(json.dumps(broken))
        with pytest.raises(fpq.FormatError, match=r"shards\[0\]"):
            fpq.ShardedIndex(path)
    path.write_text("{")
    with pytest.raises(fpq.FormatError, match="JSON"):
        fpq.ShardedIndex(path)
    with pytest.raises(FileNotFoundError):
        fpq.ShardedIndex(tmp_path / "none.json")


def test_bad_shards_change_nothing(tmp_path: Path) -> None:
    many = shards(MAKERS["pq l2"], tmp_path, 2)
    before = (tmp_path / "manifest.json").read_bytes()
    other = tmp_path / "other.fpq"
    for index, error, message in (
        (MAKERS["pq l2"]().add(X[:9]), ValueError, "disjoint ranges"),
        (MAKERS["pq l2"](), ValueError, "empty"),
        (fpq.PQIndex(4, nbits=5).fit(X).add(X[:9], ids=np.arange(9) + N), fpq.FormatError, "training"),
        (fpq.FlatIndex().add(X[:9], ids=np.arange(9) + N), fpq.FormatError, "training"),
        (fpq.KMeans(2).fit(X), fpq.FormatError, "kind"),
    ):
        index.save(other)
        with pytest.raises(error, match=message):
            many.add_shard(other)
    for offset in (-1, 1.5, 1 << 63):
        MAKERS["pq l2"]().add(X[:9]).save(other)
        with pytest.raises((ValueError, TypeError), match="offset"):
            many.add_shard(other, offset=offset)
    with pytest.raises(ValueError, match="file: expected one of"):
        many.drop_shard("none")
    with pytest.raises(FileNotFoundError):
        many.add_shard(tmp_path / "none.fpq")
    with pytest.raises(ValueError, match="files"):
        fpq.ShardedIndex.create(tmp_path / "m.json", [])
    with pytest.raises(ValueError, match="offsets"):
        fpq.ShardedIndex.create(tmp_path / "m.json", [other], offsets=[])
    assert (tmp_path / "manifest.json").read_bytes() == before and len(many) == N


def test_bad_arguments(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    flat = shards(fpq.FlatIndex, tmp_path, 2)
    pq = shards(lambda: fpq.PQIndex(4).fit(X), tmp_path / "plain", 2)
    with pytest.raises(ValueError, match="k: expected at least 1"):
        flat.search(Q, 0)
    with pytest.raises(ValueError, match="n_probe"):
        pq.search(Q, 1, n_probe=2)
    with pytest.raises(ValueError, match="rerank"):
        flat.search(Q, 1, rerank=2)
    with pytest.raises(ValueError, match="keeps no vectors"):
        pq.search(Q, 1, rerank=2)
    with pytest.raises(ValueError, match="up to 1499"):
        pq.search(Q, 1, allowed=np.ones(N - 1, bool))
    with pytest.raises(ValueError, match="dimension"):
        pq.search(Q[:, :3])
    with pytest.raises(ValueError, match="NaN"):
        pq.search(np.full(13, np.nan))
    with pytest.raises(ValueError, match="allow_partial"):
        fpq.ShardedIndex(tmp_path / "manifest.json", allow_partial=2)


def test_manifest_never_replaces_a_shard(tmp_path: Path) -> None:
    fpq.FlatIndex().add(np.eye(3)).save(tmp_path / "a.fpq")
    before = (tmp_path / "a.fpq").read_bytes()
    with pytest.raises(ValueError, match="expected another file to write to than the input"):
        fpq.ShardedIndex.create(tmp_path / "a.fpq", [tmp_path / "a.fpq"])
    assert (tmp_path / "a.fpq").read_bytes() == before


@posix_files
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_copies(duplicate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(MAKERS["pq l2"], tmp_path, 3)
    monkeypatch.chdir(tmp_path)
    index = fpq.ShardedIndex("manifest.json", allow_partial=True)
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path / "1.fpq").unlink()
    twin = duplicate(index)
    assert (repr(twin), twin.allow_partial) == (repr(index), True)
    found = duplicate(twin.search(Q, 4, rerank=3))
    assert list(found.missing) == ["1.fpq"]
    same(found, fpq.ShardedIndex(tmp_path / "manifest.json", allow_partial=True).search(Q, 4, rerank=3))
    assert len(index.search(Q, 4).missing) == 0  # has it open
    twin.drop_shard("1.fpq")
    assert len(twin) == len(duplicate(index)) < len(index)


def test_a_pickle_of_shards_that_have_gone(tmp_path: Path) -> None:
    pickled = pickle.dumps(shards(MAKERS["flat l2"], tmp_path, 2))
    (tmp_path / "0.fpq").unlink()
    with pytest.raises(fpq.FormatError, match=r"1 of 2 shards cannot be used"):
        pickle.loads(pickled)
