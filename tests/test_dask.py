"""Learning, building and searching in blocks and on a Dask cluster: the same as on one machine."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq
import fpq.dask
from fpq.dask import blocks, serve, training
from fpq.sharding import merge
from fpq.sharding.merge import ShardQuery

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

N, D = 3000, 12
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
BYTES = (X * 30 + 120).clip(0, 255).astype(np.uint8)
Q = X[:20] + np.float32(0.1)


@contextlib.contextmanager
def cluster_of_two() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster_of_two() as client:
        yield client


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of a cluster of its own: not every killed worker comes back."""
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "3s")  # workers may ask the dead one for rows
    with cluster_of_two() as client:
        yield client


def pq(**options: Any) -> fpq.PQIndex:
    index = fpq.PQIndex(4, nbits=4, keep_vectors=True, **options)
    index.quantizer.max_points_per_centroid = 100  # so that fit draws 1,600 of 3,000 rows
    return index


def ivf(**options: Any) -> fpq.IVFPQIndex:
    index = fpq.IVFPQIndex(8, 4, nbits=4, keep_vectors=True, **options)
    index.quantizer.max_points_per_centroid = 70
    return index


def same(a: Any, b: Any) -> None:
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)


def same_learned(a: Any, b: Any) -> None:
    one, other = a._state().arrays, b._state().arrays
    assert one.keys() == other.keys() and "codebooks" in one
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def memmapped(folder: Path, x: np.ndarray) -> np.memmap:
    np.save(folder / "x.npy", x)
    return np.load(folder / "x.npy", mmap_mode="r")


def sources(folder: Path, x: np.ndarray) -> dict[str, Any]:
    return {
        "chunks": da.from_array(x, chunks=(700, 5)),
        "uneven": da.from_array(x, chunks=((1, 999, 0, 2000), D)),
        "unknown": (lambda a: a[a[:, 0] > -1000])(da.from_array(x, chunks=(1100, D))),
        "memmap": memmapped(folder, x),
        "array": x,
    }


@pytest.mark.parametrize("source", ["chunks", "uneven", "unknown", "memmap", "array"])
@pytest.mark.parametrize("make", [pq, ivf, lambda: pq(rotation="opq"), lambda: ivf(metric="cosine")])
def test_fit_is_that_of_one_machine(make: Any, source: str, tmp_path: Path) -> None:
    same_learned(fpq.dask.fit(make(), sources(tmp_path, X)[source]), make().fit(X))


def test_fit_on_a_cluster(client: Any, tmp_path: Path) -> None:
    for source in ("chunks", "memmap"):
        x = sources(tmp_path, BYTES)[source]
        same_learned(fpq.dask.fit(pq(metric="cosine"), x, client=client), pq(metric="cosine").fit(BYTES))
        same_learned(fpq.dask.fit(ivf(), x, client=client), ivf().fit(BYTES))


LOCAL = {"local_rotations": True, "rotation_dim": 4}


@pytest.mark.parametrize("options", [{}, {"rotation": "pca"}, {"list_capacity": 1.3}, {"metric": "cosine"}, LOCAL])
def test_many_iterations_on_a_cluster(client: Any, options: dict[str, Any]) -> None:
    x = np.random.default_rng(1).gamma(1, size=(30_000, D)).astype(np.float32)  # grow in parts, have bounds
    x[:9000] = x[0]  # so that lists come out empty
    make = functools.partial(fpq.IVFPQIndex, 150, 3, nbits=5, **options)
    learned = fpq.dask.fit(make(), da.from_array(x, chunks=(4700, D)), client=client)
    same_learned(learned, make().fit(x))
    if not options:
        assert {"fpq-part", "fpq-lloyd", "fpq-assignment"} <= client.run_on_scheduler(_prefixes)


def test_fit_of_a_stream_does_not_depend_on_its_blocks() -> None:
    learned = [fpq.dask.fit(pq(), (X[i : i + step] for i in range(0, N, step))) for step in (1, 7, 1000, 3000)]
    for index in learned[1:]:
        same_learned(learned[0], index)
    same_learned(fpq.dask.fit(pq(), iter([X[:900], X[900:1600]])), pq().fit(X[:1600]))
    assert not np.array_equal(fpq.dask.fit(pq(seed=1), [X]).quantizer.codebooks, learned[0].quantizer.codebooks)


@pytest.mark.parametrize("make", [fpq.FlatIndex, lambda: pq().fit(BYTES), lambda: ivf(metric="ip").fit(BYTES)])
def test_built_shards_answer_as_one_index(make: Any, client: Any, tmp_path: Path) -> None:
    one = make().add(BYTES)
    for number, (source, x) in enumerate(sources(tmp_path, BYTES).items()):
        manifest = fpq.dask.build(make(), x, tmp_path / source, client=client if number % 2 else None, shard_rows=800)
        many = fpq.ShardedIndex(manifest)
        assert len(many) == N and len(many.shards) == {"chunks": 5, "uneven": 3, "unknown": 3}.get(source, 4)
        same(many.search(Q, 7), one.search(Q, 7))
        if make is not fpq.FlatIndex:
            same(many.search(Q, 7, rerank=3), one.search(Q, 7, rerank=3))
    blocks = (BYTES[i : i + 431] for i in range(0, N, 431))
    same(fpq.ShardedIndex(fpq.dask.build(make(), blocks, tmp_path / "s")).search(Q, 7), one.search(Q, 7))


def test_search_on_a_cluster(client: Any, tmp_path: Path) -> None:
    one = ivf().fit(X)
    manifest = fpq.dask.build(one, da.from_array(X, chunks=(400, D)), tmp_path)
    one.add(X)
    many = fpq.ShardedIndex(manifest, client=client)
    assert many.nbytes == fpq.ShardedIndex(manifest).nbytes > 0  # before searches make tables of ids
    few = np.arange(0, N, 3)
    for options in ({}, {"n_probe": 3}, {"rerank": 4}, {"allowed": few}, {"allowed": np.isin(np.arange(N), few)}):
        same(many.search(Q, 11, **options), one.search(Q, 11, **options))
    same(many.search(Q[0], 2), one.search(Q[0], 2))
    same(many.range_search(Q, 9.0, n_probe=4), one.range_search(Q, 9.0, n_probe=4))
    many.verify()
    tuned = many.tune(Q, 5, 0.9)
    same(many.search(Q, 5), one.search(Q, 5, **tuned.best.setting))
    assert np.array_equal(np.sort(many.ids), np.arange(N))
    np.testing.assert_array_equal(many.reconstruct([7, N - 1]), one.reconstruct([7, N - 1]))
    many.n_probe = many.rerank = None
    dropped = many.shards[2]
    many.drop_shard(dropped)
    left = np.r_[0:800, 1200:N]
    same(many.search(Q, 11), ivf().fit(X).add(X[left], ids=left).search(Q, 11))
    many.add_shard(tmp_path / dropped, offset=800)
    same(many.search(Q, 11), one.search(Q, 11))
    files, offsets = [tmp_path / file for file in many.shards], range(0, N, 400)
    copied = fpq.ShardedIndex.create(tmp_path / "copied.json", files, offsets=offsets, client=client)
    assert copied.remove(np.arange(0, N, 2)) == N // 2
    same(copied.search(Q, 11), one.search(Q, 11, allowed=np.arange(1, N, 2)))
    (tmp_path / dropped).rename(tmp_path / "away")
    client.run(_forget)
    with pytest.raises(fpq.FormatError, match=f"1 of 8 shards .*{dropped}"):
        many.search(Q, 11)
    found = fpq.ShardedIndex(manifest, client=client, allow_partial=True).search(Q, 11)
    assert list(found.missing) == [dropped]
    same(found, ivf().fit(X).add(X[left], ids=left).search(Q, 11))
    with pytest.raises(ValueError, match="keeps no vectors"):
        plain = fpq.dask.build(fpq.PQIndex(4, nbits=4).fit(X), [X], tmp_path / "plain")
        fpq.ShardedIndex(plain, client=client).search(Q, 3, rerank=2)


@pytest.mark.filterwarnings("ignore:Port")
def test_the_example_of_the_readme_and_the_names_on_the_dashboard() -> None:
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = text.split("## More than one machine")[1].split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) == 6
    names: dict[str, Any] = {}
    try:
        exec(code, names)
        assert (names["ids"][:, 0] == np.arange(5)).all()
        prefixes = names["client"].run_on_scheduler(_prefixes)
        assert {"fpq-sample", "fpq-encode", "fpq-nearest"} <= prefixes
    finally:
        if "client" in names:
            names["client"].cluster.close()
            names["client"].close()


def _prefixes(dask_scheduler: Any) -> set[str]:
    return set(dask_scheduler.task_prefixes)


def _forget() -> None:
    serve._open_shard.cache_clear()


def test_copies_of_a_sharded_index(client: Any, tmp_path: Path) -> None:
    index = fpq.ShardedIndex(fpq.dask.build(fpq.FlatIndex(), X, tmp_path, shard_rows=1000), client=client)
    for twin in (copy.copy(index), copy.deepcopy(index)):
        same(twin.search(Q, 3), index.search(Q, 3))
    with pytest.raises(TypeError, match="an index with a client cannot be pickled: open its manifest"):
        pickle.dumps(index)
    here = fpq.ShardedIndex(tmp_path / "manifest.json")  # goes to a worker, and searches there
    same(client.submit(_search, here).result(), index.search(Q, 3))


def _search(index: Any) -> Any:
    return tuple(index.search(Q, 3))


def test_a_search_outlives_its_worker(mortal: Any, tmp_path: Path) -> None:
    many = fpq.ShardedIndex(fpq.dask.build(fpq.FlatIndex(), [X[:1000], X[1000:]], tmp_path), client=mortal)
    expected = many.search(Q, 5)
    os.kill(next(iter(mortal.run(os.getpid).values())), signal.SIGKILL)
    same(many.search(Q, 5), expected)


def test_a_scheduler_that_goes_away(tmp_path: Path) -> None:
    manifest = fpq.dask.build(fpq.FlatIndex(), [X], tmp_path)
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0")
    client = distributed.Client(cluster, set_as_default=False)
    many = fpq.ShardedIndex(manifest, client=client)
    client.close()
    cluster.close()
    with pytest.raises(ConnectionError, match="cluster"):
        many.search(Q, 5)
    with pytest.raises(ConnectionError, match="cluster"):
        fpq.dask.build(fpq.FlatIndex(), da.from_array(X, chunks=(900, D)), tmp_path / "more", client=client)
    same(fpq.ShardedIndex(manifest).search(Q, 5), fpq.FlatIndex().add(X).search(Q, 5))


def _kill_once(block: np.ndarray, marker: str, block_info: Any = None) -> np.ndarray:
    if block_info[0]["chunk-location"][0] == 3 and not os.path.exists(marker):
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return block


def _check_built(manifest: Path, index: Any, shards: int) -> None:
    many = fpq.ShardedIndex(manifest)
    assert len(many) == N and len(many.shards) == shards
    assert len(list(manifest.parent.glob("shard-*.fpq"))) == shards
    many.verify()
    same(many.search(Q, 9), index.add(X).search(Q, 9))


@pytest.mark.parametrize("way", ["while a block is read", "from outside"])
def test_a_worker_is_killed_while_building(way: str, mortal: Any, tmp_path: Path) -> None:
    index = pq().fit(X)
    x = da.from_array(X, chunks=(200, D))
    killed = threading.Event()
    if way == "from outside":
        x = x.map_blocks(lambda block: time.sleep(0.05) or block, dtype=x.dtype)
        victim = mortal.run(os.getpid)[sorted(mortal.nthreads())[0]]

        def kill() -> None:
            while not list(tmp_path.glob("shard-*.fpq")):
                time.sleep(0.01)
            os.kill(victim, signal.SIGKILL)
            killed.set()

        threading.Thread(target=kill, daemon=True).start()
    else:
        x = x.map_blocks(_kill_once, marker=str(tmp_path / "marker"), dtype=x.dtype)
    manifest = fpq.dask.build(index, x, tmp_path, client=mortal)
    assert killed.is_set() or (tmp_path / "marker").exists()
    _check_built(manifest, index, 15)


def test_a_worker_is_killed_while_fitting(mortal: Any, tmp_path: Path) -> None:
    x = da.from_array(X, chunks=(200, D)).map_blocks(_kill_once, marker=str(tmp_path / "marker"), dtype=X.dtype)
    index = fpq.dask.fit(ivf(), x, client=mortal)
    assert (tmp_path / "marker").exists()
    same_learned(index, ivf().fit(X))


@pytest.mark.parametrize("after", [1, 4, 9])
def test_a_worker_is_killed_between_iterations(after: int, mortal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = training.ClusterSteps.sums, []

    def sums(*arguments: Any) -> Any:
        steps.append(step(*arguments))
        if len(steps) == after:
            os.kill(next(iter(mortal.run(os.getpid).values())), signal.SIGKILL)
        return steps[-1]

    monkeypatch.setattr(training.ClusterSteps, "sums", sums)
    index = fpq.dask.fit(ivf(), da.from_array(X, chunks=(200, D)), client=mortal)
    assert len(steps) > 9
    same_learned(index, ivf().fit(X))


def _at_an_odd_address(x: np.ndarray) -> np.ndarray:
    """As arrays come over the network."""
    array = np.frombuffer(b"." + x.tobytes(), x.dtype, offset=1).reshape(x.shape)
    assert not array.flags.aligned
    return array


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_queries_at_an_odd_address(metric: str, tmp_path: Path) -> None:
    one = pq(metric=metric).fit(X)
    many = fpq.ShardedIndex(fpq.dask.build(one, X, tmp_path, shard_rows=1000))
    query = ShardQuery(_at_an_odd_address(Q), metric != "l2", k=5, rerank=3)
    found, _ = serve._run_on_worker(tmp_path, many._manifest, merge.nearest, query)
    ranked = merge.ranked(found.exact, found.ids)
    np.testing.assert_array_equal(ranked.ids[:, :5], one.add(X).search(Q, 5, rerank=3).ids)


def test_a_part_that_has_moved_gives_the_same_answer() -> None:
    part = training.Part(_at_an_odd_address(X))
    moved = part
    before, active, offsets = None, np.ones(1, np.uint8), np.array([0, D], np.int32)
    for number in range(1, 5):
        centroids = X[None, number : 200 + number].copy()
        iteration = training.Iteration(number, offsets, centroids, before, active, 1536)
        moved = pickle.loads(pickle.dumps(moved)) if number in (2, 3) else moved
        iteration = iteration._replace(centroids=_at_an_odd_address(centroids))
        same(training.assign_and_sum(part, iteration), training.assign_and_sum(moved, iteration))
        moved = pickle.loads(pickle.dumps(moved)) if number == 3 else moved
        same(training.assignment(part, iteration, 0), training.assignment(moved, iteration, 0))
        before = centroids


def test_a_build_goes_on_where_it_was(tmp_path: Path) -> None:
    index = pq().fit(X)
    blocks = [X[i : i + 500] for i in range(0, N, 500)]

    def breaks() -> Iterator[np.ndarray]:
        yield from blocks[:4]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        fpq.dask.build(index, breaks(), tmp_path)
    assert not (tmp_path / "manifest.json").exists()
    there = sorted(tmp_path.glob("shard-*.fpq"))
    assert len(there) == 4
    damaged = bytearray(there[1].read_bytes())
    damaged[-1] ^= 1
    there[1].write_bytes(damaged)
    before = [path.stat().st_mtime_ns for path in there]
    manifest = fpq.dask.build(index, blocks, tmp_path)
    after = [path.stat().st_mtime_ns for path in there]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True, True]
    assert len(index) == 0
    _check_built(manifest, pq().fit(X), 6)
    changed = fpq.dask.build(index, [blocks[0] + 1, *blocks[1:]], tmp_path)  # other rows are another shard
    assert fpq.ShardedIndex(changed).search(blocks[0][3] + 1, 1).ids[0] == 3
    assert [path.stat().st_mtime_ns for path in there] == after


def bad(number: int, value: Any) -> list[np.ndarray]:
    blocks = [X[i : i + 1000].copy() for i in range(0, N, 1000)]
    blocks[number] = value(blocks[number])
    return blocks


def _with_nan(block: np.ndarray) -> np.ndarray:
    block[17, 3] = np.nan
    return block


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (_with_nan, ValueError, r"partition 2: .*got NaN or infinity in row 17"),
        (lambda block: block[:, :5], ValueError, "partition 2: expected vectors of dimension 12, got dimension 5"),
        (lambda block: block.astype(np.float64), TypeError, "partition 2: expected dtype float32 .* got float64"),
        (lambda block: block[0], ValueError, r"partition 2: expected shape"),
    ],
)
def test_bad_partitions_are_named(value: Any, error: type, message: str, client: Any, tmp_path: Path) -> None:
    blocks = bad(2, value)
    index = pq().fit(X)
    with pytest.raises(error, match=message):
        fpq.dask.build(index, blocks, tmp_path / "stream")
    with pytest.raises(error, match=message):
        fpq.dask.fit(pq(), blocks)
    delayed = [da.from_delayed(_delay(b), (1000, D), np.float32) for b in blocks]
    x = da.concatenate(delayed)
    with pytest.raises(error, match=message):
        fpq.dask.build(index, x, tmp_path / "cluster", client=client)
    with pytest.raises(error, match=message):
        fpq.dask.build(index, x, tmp_path / "threads")
    assert not list(tmp_path.glob("*/manifest.json"))
    assert len(list((tmp_path / "stream").glob("shard*"))) == 2  # what was written stays


def _delay(value: Any) -> Any:
    import dask

    return dask.delayed(value)


def test_empty_partitions(tmp_path: Path) -> None:
    blocks = [X[:0], X[:100], X[:0], X[100:], X[:0]]
    many = fpq.ShardedIndex(fpq.dask.build(fpq.FlatIndex(), blocks, tmp_path))
    assert len(many.shards) == 2
    same(many.search(Q, 4), fpq.FlatIndex().add(X).search(Q, 4))
    for nothing in ([], [X[:0]], X[:0], da.from_array(X[:0])):
        with pytest.raises(ValueError, match="X: expected at least"):
            fpq.dask.build(fpq.FlatIndex(), nothing, tmp_path / "none")
        with pytest.raises(ValueError, match="X: expected at least"):
            fpq.dask.fit(pq(), nothing)


def _replaced(folder: Path) -> np.memmap:
    x = memmapped(folder, X * 3)
    np.save(folder / "other.npy", X)
    os.replace(folder / "other.npy", folder / "x.npy")
    return x


def _changed(folder: Path, mode: str) -> np.memmap:
    memmapped(folder, X)
    x = np.load(folder / "x.npy", mmap_mode=mode)
    x *= 3
    return x


def _deleted(folder: Path) -> np.memmap:
    x = memmapped(folder, X * 3)
    os.unlink(folder / "x.npy")
    return x


def _of_a_file_object(folder: Path) -> np.memmap:
    with open(folder / "raw", "w+b", buffering=0) as file:
        x = np.memmap(os.fdopen(os.dup(file.fileno()), "r+b"), np.float32, "w+", shape=(N, D))
    x[:] = X * 3
    return x


def _with_an_offset(folder: Path) -> np.memmap:
    (folder / "raw").write_bytes(b"header " + (X * 3).tobytes())
    return np.memmap(folder / "raw", np.float32, "r", 7, (N, D))


@pytest.mark.skipif(os.name == "nt", reason="Windows does not replace or delete mapped files")
@pytest.mark.parametrize(
    "make",
    [
        lambda folder: _changed(folder, "c"),
        lambda folder: _changed(folder, "r+"),
        lambda folder: _changed(folder, "c")[:],
        lambda folder: memmapped(folder, np.concatenate([X, X * 3]))[N:],
        lambda folder: memmapped(folder, np.hstack([X, X * 3]))[:, D:],
        lambda folder: memmapped(folder, np.repeat(X * 3, 2, axis=0))[::2],
        lambda folder: memmapped(folder, X[::-1] * 3)[::-1],
        lambda folder: memmapped(folder, np.asfortranarray(X * 3)),
        _replaced,
        _deleted,
        _of_a_file_object,
        _with_an_offset,
    ],
    ids=[
        "copy on write", "not flushed", "view of changes", "rows", "columns", "every other row", "backwards", "Fortran",
        "replaced", "deleted", "file object", "offset",
    ],
)  # fmt: skip
def test_memory_maps_count_as_they_are_in_memory(make: Any, client: Any, tmp_path: Path) -> None:
    x = make(tmp_path)
    np.testing.assert_array_equal(x, X * 3)
    manifest = fpq.dask.build(fpq.FlatIndex(), x, tmp_path / "shards", client=client, shard_rows=1000)
    index = fpq.ShardedIndex(manifest)
    assert len(index) == N
    same(index.search(X * 3, 3), fpq.FlatIndex().add(X * 3).search(X * 3, 3))
    same_learned(fpq.dask.fit(pq(), x, client=client), pq().fit(X * 3))


def test_workers_read_a_file_that_holds_what_the_array_does(client: Any, tmp_path: Path) -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("nothing says here what is mapped")
    assert isinstance(blocks.of(memmapped(tmp_path, X), client), blocks.OnCluster)
    assert isinstance(blocks.of(_changed(tmp_path, "r+"), client), blocks.OnCluster)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trained index without vectors"):
        fpq.dask.build(pq(), X, tmp_path)
    with pytest.raises(ValueError, match="trained index without vectors"):
        fpq.dask.build(pq().fit(X).add(X), X, tmp_path)
    with pytest.raises(TypeError, match="index: expected one of"):
        fpq.dask.build(fpq.KMeans(2), X, tmp_path)
    with pytest.raises(TypeError, match="index: expected one of"):
        fpq.dask.fit(fpq.KMeans(2), X)
    with pytest.raises(ValueError, match="dimension 12, got dimension 11"):
        fpq.dask.build(pq().fit(X), X[:, 1:], tmp_path)
    with pytest.raises(TypeError, match="X: expected an array"):
        fpq.dask.build(pq().fit(X), 5, tmp_path)
    for wrong in (X[0], da.from_array(X[0]), da.from_array(X)[:, da.from_array(X[0]) > 0]):
        with pytest.raises(ValueError, match="X: expected a"):
            fpq.dask.fit(pq(), wrong)
    with pytest.raises(ValueError, match="shard_rows"):
        fpq.dask.build(pq().fit(X), X, tmp_path, shard_rows=0)
    with pytest.raises(ValueError, match="holds 3000 vectors"):
        fpq.dask.fit(pq().fit(X).add(X), X)


def test_table_of_dask_is_refused_in_one_line(tmp_path: Path) -> None:
    dataframe = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    table = dataframe.from_pandas(pandas.DataFrame(np.eye(8)), npartitions=2)
    message = r"^X: expected a Dask array, got a Dask DataFrame: pass X\.to_dask_array\(lengths=True\)$"
    with pytest.raises(TypeError, match=message):
        fpq.dask.build(fpq.FlatIndex(), table, tmp_path)
    with pytest.raises(TypeError, match=message):
        fpq.dask.fit(fpq.PQIndex(2, nbits=1), table)
    with pytest.raises(TypeError, match=message):
        fpq.FlatIndex().add(table)
    assert fpq.dask.build(fpq.FlatIndex(), table.to_dask_array(lengths=True), tmp_path).exists()
