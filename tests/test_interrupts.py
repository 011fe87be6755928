"""Ctrl-C ends every public call that can take over a second within a second, and the index is as before.

LONG makes each such call long; SHORT says why the others are not. Together they are the public API.
"""

from __future__ import annotations

import copy
import functools
import gzip
import inspect
import itertools
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest

import fpq
import fpq.dask
import fpq.interop
from fpq import cli, datasets, metrics, minhash

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers of POSIX")

AFTER = 0.2  # seconds from the beginning of a call to the signal
MOST = 1.0  # seconds that a call may go on, of the time that its thread has the CPU: other programs may be running
D = 64
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20_000, D)).astype(np.float32)
ENDLESS = np.lib.stride_tricks.as_strided(X, (50_000_000, D), (0, 4))  # takes no memory
MANY = np.tile(X, (10, 1))
WIDE = RNG.normal(size=(2000, 4096)).astype(np.float32)
MNIST = Path(__file__).parent.parent / "bench" / "data" / "mnist"


class Interrupted(BaseException):
    """What the handler of the signal raises."""


def interrupt(call: Callable[[], Any]) -> None:
    """Make a call, send a signal amid it, and see that it ends soon."""

    sent = 0.0

    def stop(*_: Any) -> None:
        raise Interrupted

    def send(*_: Any) -> None:
        nonlocal sent
        sent = time.thread_time()
        signal.raise_signal(signal.SIGINT)

    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, stop),
        signal.SIGALRM: signal.signal(signal.SIGALRM, send),
    }
    # A second signal, as a user would send: Python drops what a callback of its collector raises.
    signal.setitimer(signal.ITIMER_REAL, AFTER, 3 * MOST)
    try:
        with pytest.raises(Interrupted):
            call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert time.thread_time() - sent < MOST


INDEXES: dict[str, Callable[[], Any]] = {
    "FlatIndex": fpq.FlatIndex,
    "PQIndex": lambda: fpq.PQIndex(32, nbits=8, keep_vectors=True).fit(X[:4000]),
    "IVFPQIndex": lambda: fpq.IVFPQIndex(16, 32, nbits=8, keep_vectors=True).fit(X[:4000]),
    "E2LSHIndex": lambda: fpq.E2LSHIndex(n_tables=16, n_hashes=8).fit(X[:4000]),
    "C2LSHIndex": lambda: fpq.C2LSHIndex(n_hashes=200).fit(X[:4000]),
    "PMLSHIndex": lambda: fpq.PMLSHIndex(n_hashes=64).fit(X[:4000]),
}


CODES, LSH = ("PQIndex", "IVFPQIndex"), ("E2LSHIndex", "C2LSHIndex", "PMLSHIndex")


@functools.cache
def trained(name: str) -> Any:
    """An index without rows."""
    return INDEXES[name]()


@functools.cache
def filled(name: str) -> Any:
    """An index of 20,000 rows that several tests share."""
    return copy.deepcopy(trained(name)).add(X)


def again(call: Callable[[], Any]) -> Callable[[], Any]:
    """A call that takes less than a second on these data, over and over."""
    return lambda: [call() for _ in range(1_000_000)]


# ---- the long calls ----


class Case:
    """What a case makes its call of: a folder and the monkeypatch fixture."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.patch = patch

    @property
    def shards(self) -> list[Path]:
        """The files of three shards."""
        files = [self.folder / f"{i}.fpq" for i in range(3)]
        for file in files:
            copy.deepcopy(trained("PQIndex")).add(X[:5000]).save(file)
        return files

    @property
    def sharded(self) -> fpq.ShardedIndex:
        """An index of three shards."""
        return fpq.ShardedIndex.create(self.folder / "manifest.json", self.shards, offsets=[0, 5000, 10_000])

    def file(self, name: str, rows: Any) -> str:
        """The path of a .npy file with these rows."""
        np.save(self.folder / name, rows)
        return str(self.folder / name)

    def saved(self, name: str) -> str:
        """The path of a saved index."""
        filled(name).save(self.folder / "index.fpq")
        return str(self.folder / "index.fpq")


Made = Callable[[Case], Callable[[], Any]]


def run(*arguments: str) -> Callable[[], Any]:
    """A command of the command line."""
    return lambda: cli.main([*arguments, *([] if arguments[0] == "demo" else ["--quiet"])])


def of_index(name: str) -> Iterator[tuple[str, Made]]:
    """The calls of an index, but for those that the tests below make."""
    effort = {
        "IVFPQIndex": {"n_probe": 16},
        "E2LSHIndex": {"n_probe": 60_000},
        "C2LSHIndex": {"n_candidates": 20_000},
        "PMLSHIndex": {"n_candidates": 20_000},
    }.get(name, {})
    for t in (1, 2):
        yield f"{name}.search {t}", lambda _: again(lambda: filled(name).search(MANY, 100, n_threads=t, **effort))
    yield f"{name}.search allowed", lambda _: again(lambda: filled(name).search(MANY, 9, allowed=range(0, 20_000, 2)))
    yield f"{name}.range_search", lambda _: again(lambda: filled(name).range_search(MANY[:20_000], 1.0))
    yield f"{name}.reconstruct", lambda _: again(lambda: filled(name).reconstruct(np.tile(filled(name).ids, 20)))
    yield f"{name}.copy", lambda _: again(lambda: filled(name).copy())
    if name in CODES:
        yield f"{name}.search rerank", lambda _: again(lambda: filled(name).search(MANY[:20_000], 10, rerank=500))
    if name == "IVFPQIndex":
        yield f"{name}.lists_of", lambda _: again(lambda: filled(name).lists_of(np.tile(filled(name).ids, 50)))


@functools.cache
def documents() -> fpq.MultiVectorIndex:
    """5,000 documents of four tokens each, which several tests share."""
    index = fpq.MultiVectorIndex(64, 32, "ip", keep_vectors=True).fit(X[:4000, None])
    return index.add(X.reshape(5000, 4, D))


def of_documents() -> Iterator[tuple[str, Made]]:
    """The calls of a MultiVectorIndex, but for those that a test below makes."""
    many = MANY[:64_000].reshape(2000, 32, D)
    effort = {"n_probe": 64, "n_candidates": 5000}
    for t in (1, 2):
        yield f"MultiVectorIndex.search {t}", lambda _: lambda: documents().search(many, n_threads=t, **effort)
    yield "MultiVectorIndex.search one", lambda _: again(lambda: documents().search(X, n_threads=2, **effort))
    yield "MultiVectorIndex.search rerank", lambda _: again(lambda: documents().search(many, rerank=50, **effort))
    yield "MultiVectorIndex.range_search", lambda _: again(lambda: documents().range_search(many, 1e6, **effort))
    yield "MultiVectorIndex.reconstruct", lambda _: again(lambda: documents().reconstruct(np.tile(np.arange(5000), 9)))
    yield "MultiVectorIndex.copy", lambda _: again(lambda: documents().copy())


SETS = (np.arange(100_001) * 20, RNG.integers(0, 100, 2_000_000))  # of which many are similar
LARGE_SET = (np.array([0, 20_000_000]), np.lib.stride_tricks.as_strided(SETS[1], (20_000_000,), (0,)))
TEXTS = ["the same sentence is here again"] * 100_000


@functools.cache
def sets() -> fpq.MinHashIndex:
    """100,000 sets, which several tests share."""
    return fpq.MinHashIndex(0.2, keep_sets=True).add(SETS)


def of_sets() -> Iterator[tuple[str, Made]]:
    """The calls of a MinHashIndex, and those of fpq.minhash."""
    index, few = sets, (SETS[0][:5001], SETS[1][:100_000])

    def change(call: Callable[[Any], Any]) -> Made:
        return lambda _: again(lambda: call(index().copy()))

    for t in (1, 2):
        yield f"MinHashIndex.search {t}", lambda _: again(lambda: index().search(few, n_threads=t))
        yield f"minhash.duplicates {t}", lambda _: again(lambda: minhash.duplicates(SETS, 0.2, n_threads=t))
    yield "MinHashIndex.range_search", lambda _: again(lambda: index().range_search(few, 0.1))
    yield "MinHashIndex.reconstruct", lambda _: again(lambda: index().reconstruct(np.arange(100_000)))
    yield "MinHashIndex.copy", lambda _: again(lambda: index().copy())
    yield "MinHashIndex.fit", lambda _: again(lambda: fpq.MinHashIndex().fit([list(range(1_000_000))]))
    yield "MinHashIndex.add", lambda _: again(lambda: fpq.MinHashIndex().add(SETS))
    yield "MinHashIndex.add large", lambda _: again(lambda: fpq.MinHashIndex(n_hashes=4096).add(LARGE_SET))
    yield "MinHashIndex.remove", change(lambda copied: copied.remove(np.arange(0, 100_000, 3)))
    yield "MinHashIndex.update", change(lambda copied: copied.update(few, np.arange(5000)))
    yield "MinHashIndex.merge", change(lambda copied: fpq.MinHashIndex(0.2, keep_sets=True).merge(copied))
    yield "minhash.shingles", lambda _: again(lambda: minhash.shingles(TEXTS))
    yield "minhash.clusters", lambda _: again(lambda: minhash.clusters(RNG.integers(0, 10**6, (10**6, 2)), 10**6))


def of_storable(name: str, make: Callable[[], Any]) -> Iterator[tuple[str, Made]]:
    """Calls of all that can be saved."""

    def verify(case: Case) -> Callable[[], Any]:
        make().save(case.folder / "a")
        return again(lambda: fpq.load(case.folder / "a", mmap=True).verify())

    yield f"{name}.save", lambda case: again(lambda: make().save(case.folder / "a"))
    yield f"{name}.verify", verify


def of_estimators() -> Iterator[tuple[str, Made]]:
    """The classes of fpq.sklearn."""
    sk = pytest.importorskip("fpq.sklearn")
    y = np.arange(len(X)) % 10

    def neighbors(name: str) -> Any:
        return getattr(sk, name)(algorithm="pq", m=32)

    fitted = functools.cache(lambda name: neighbors(name).fit(X, y))
    for name in ("ANNTransformer", "ANNClassifier", "ANNRegressor"):
        yield f"{name}.fit", lambda _, n=name: again(lambda: neighbors(n).set_params(n_jobs=1).fit(X, y))
        yield f"{name}.kneighbors", lambda _, n=name: again(lambda: fitted(n).kneighbors(MANY))
        yield f"{name}.kneighbors_graph", lambda _, n=name: again(lambda: fitted(n).kneighbors_graph(MANY))
    yield "ANNTransformer.transform", lambda _: again(lambda: fitted("ANNTransformer").transform(MANY))
    for name in ("ANNClassifier", "ANNRegressor"):
        yield f"{name}.predict", lambda _, n=name: again(lambda: fitted(n).predict(MANY))
    yield "ANNClassifier.predict_proba", lambda _: again(lambda: fitted("ANNClassifier").predict_proba(MANY))
    near = functools.cache(lambda: sk.ANNRadiusTransformer(0.1).fit(X))
    yield "ANNRadiusTransformer.fit", lambda _: again(lambda: sk.ANNRadiusTransformer(0.1, n_jobs=1).fit(X))
    yield "ANNRadiusTransformer.transform", lambda _: again(lambda: near().transform(MANY))
    yield "ANNRadiusTransformer.radius_neighbors_graph", lambda _: again(lambda: near().radius_neighbors_graph(MANY))
    coder = functools.cache(lambda: sk.PQTransformer(m=32).fit(X))
    yield "PQTransformer.fit", lambda _: again(lambda: sk.PQTransformer(m=32).fit(X))
    yield "PQTransformer.transform", lambda _: again(lambda: coder().transform(MANY))
    yield "PQTransformer.inverse_transform", lambda _: again(lambda: coder().inverse_transform(coder().transform(X)))


def download(case: Case) -> Callable[[], Any]:
    """A server that accepts and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    case.patch.setattr(datasets, "_MNIST_URLS", (f"http://127.0.0.1:{server.getsockname()[1]}/",))
    return lambda: (datasets.fetch_mnist(case.folder / "mnist"), server)


def unpacking(read: Callable[[Path], Any]) -> Made:
    """Of 200 MB that take little room."""

    def make(case: Case) -> Callable[[], Any]:
        path = case.folder / "train-images-idx3-ubyte.gz"
        head = bytes([0, 0, 8, 1]) + (200_000_000).to_bytes(4, "big")
        path.write_bytes(gzip.compress(head) + 200 * gzip.compress(bytes(1_000_000)))
        return again(lambda: read(path))

    return make


def no_mnist(case: Case) -> Callable[[], Any]:
    """The demo, on its digits."""
    if not MNIST.exists():
        pytest.skip("no MNIST here")
    return run("demo", "--data", str(MNIST), "--out", str(case.folder / "a.png"))


IDS = np.lib.stride_tricks.as_strided(RNG.integers(0, 10**6, 100), (2_000_000, 100), (0, 8))  # takes no memory
PQ = functools.cache(lambda: fpq.ProductQuantizer(32, nbits=8).fit(X))
KMEANS = functools.cache(lambda: fpq.KMeans(200).fit(X))
LONG: dict[str, Made] = {
    **{case: make for name in INDEXES for case, make in of_index(name)},
    **{case: make for name in INDEXES for case, make in of_storable(name, functools.partial(filled, name))},
    **dict(of_documents()),
    **dict(of_storable("MultiVectorIndex", documents)),
    **dict(of_sets()),
    **dict(of_storable("MinHashIndex", sets)),
    **dict(of_storable("KMeans", KMEANS)),
    **dict(of_storable("ProductQuantizer", PQ)),
    **dict(of_estimators()),
    "FlatIndex.fit": lambda _: again(lambda: fpq.FlatIndex().fit(ENDLESS)),
    "KMeans.fit": lambda _: lambda: fpq.KMeans(2000, n_iter=1000, max_points_per_centroid=10_000).fit(ENDLESS),
    "KMeans.fit capacity": lambda _: lambda: fpq.KMeans(2000, n_iter=1000, capacity=1.0).fit(MANY),
    "KMeans.fit k-means++": lambda _: lambda: fpq.KMeans(20_000, init="k-means++").fit(MANY),
    "KMeans.predict": lambda _: lambda: KMEANS().predict(ENDLESS),
    "ProductQuantizer.fit": lambda _: lambda: fpq.ProductQuantizer(32, n_iter=10**6).fit(ENDLESS),
    "ProductQuantizer.fit opq": lambda _: lambda: fpq.ProductQuantizer(32, rotation="opq").fit(ENDLESS),
    "ProductQuantizer.fit pca": lambda _: again(lambda: fpq.ProductQuantizer(32, rotation="pca").fit(ENDLESS)),
    "ProductQuantizer.fit open_indexing": lambda _: lambda: fpq.ProductQuantizer(32, open_indexing=1.0).fit(ENDLESS),
    "ProductQuantizer.encode": lambda _: lambda: PQ().encode(ENDLESS),
    "ProductQuantizer.decode": lambda _: again(lambda: PQ().decode(np.zeros((1_000_000, 32), np.uint8))),
    "ProductQuantizer.distance_table": lambda _: again(lambda: PQ().distance_table(X)),
    "ShardedIndex.create": lambda case: again(lambda: case.sharded),
    "ShardedIndex()": lambda case: again(lambda s=case.sharded: fpq.ShardedIndex(s._path)),
    "ShardedIndex.search": lambda case: again(lambda s=case.sharded: s.search(MANY, 100)),
    "ShardedIndex.search rerank": lambda case: again(lambda s=case.sharded: s.search(MANY[:20_000], 10, rerank=500)),
    "ShardedIndex.range_search": lambda case: again(lambda s=case.sharded: s.range_search(MANY[:20_000], 1.0)),
    "ShardedIndex.tune": lambda case: again(lambda s=case.sharded: s.tune(MANY[:20_000], 10, 0.0, X=MANY)),
    "ShardedIndex.reconstruct": lambda case: again(lambda s=case.sharded: s.reconstruct(np.arange(15_000))),
    "ShardedIndex.verify": lambda case: again(lambda s=case.sharded: s.verify()),
    "load": lambda case: again(functools.partial(fpq.load, case.saved("PQIndex"))),
    "dask.fit": lambda _: lambda: fpq.dask.fit(fpq.IVFPQIndex(1000, 32), itertools.repeat(X, 1000)),
    "dask.build": lambda case: lambda: fpq.dask.build(trained("PQIndex"), itertools.repeat(X), case.folder / "shards"),
    "datasets.fetch_mnist": download,
    "datasets.read_idx": unpacking(datasets.read_idx),
    "datasets.read_vectors": unpacking(datasets.read_vectors),
    "metrics.recall_at_k": lambda _: again(lambda: metrics.recall_at_k(IDS, IDS)),
    "metrics.vote": lambda _: again(lambda: metrics.vote(IDS)),
    "metrics.intersection_at_k": lambda _: again(lambda: metrics.intersection_at_k(IDS, IDS)),
    "metrics.one_recall_at_k": lambda _: again(lambda: metrics.one_recall_at_k(IDS[:500_000], IDS[:500_000])),
    "cli build": lambda case: run("build", case.file("x.npy", MANY), str(case.folder / "i"), "--kind", "ivfpq"),
    "cli search": lambda case: run(
        "search", case.saved("PQIndex"), case.file("q.npy", MANY), "-k", "1000", "-o", str(case.folder / "a.npz")
    ),
    "cli eval": lambda case: run(
        "eval", case.saved("PQIndex"), case.file("q.npy", MANY), case.file("t.npy", np.zeros((len(MANY), 10), int))
    ),
    "cli tune": lambda case: run(
        "tune", case.saved("PQIndex"), case.file("q.npy", MANY + np.float32(0.1)), "--recall", "0.999"
    ),
    "cli demo": no_mnist,
}
BELOW = {  # those that tests of their own make
    *(f"{name}.{call}" for name in INDEXES for call in ("add", "remove", "update", "merge")),
    *(f"{name}.{call}" for name in (*CODES, *LSH) for call in ("fit", "tune")),
    *(f"MultiVectorIndex.{call}" for call in ("fit", "add", "remove", "update", "merge")),
    "ShardedIndex.add_shard", "ShardedIndex.drop_shard", "ShardedIndex.remove", "ShardedIndex.reload",
}  # fmt: skip
SHORT = {
    "*()": "keeps parameters or results",
    "*.is_trained": "an attribute", "*Index.dim": "an attribute", "*.nbytes": "adds sizes up",
    "*Index.reset": "replaces arrays by empty arrays",
    "*Index.ids": "copies an array", "PQIndex.codes": "copies an array", "IVFPQIndex.list_sizes": "copies an array",
    "IVFPQIndex.centroids": "an attribute", "MultiVectorIndex.centroids": "an attribute",
    "MultiVectorIndex.n_tokens": "an attribute", "C2LSHIndex.radius": "an attribute", "PMLSHIndex.beta": "an attribute",
    "ShardedIndex.kind": "an attribute", "ShardedIndex.metric": "an attribute", "ShardedIndex.shards": "an attribute",
    "OpenIndexing.*": "a part of fit and add",
    "ProductQuantizer.code_size": "an attribute", "ProductQuantizer.decoded": "as decode",
    "ProductQuantizer.unrotated": "as decode", "ProductQuantizer.rotation_matrix": "an attribute",
    "ProductQuantizer.max_training_rows": "an attribute", "ProductQuantizer.check_dim": "compares two numbers",
    "ProductQuantizer.adc": "a part of search", "ProductQuantizer.rotate": "a part of search",
    "ProductQuantizer.drawn": "a part of fit", "ProductQuantizer.fit_drawn": "a part of fit",
    "ProductQuantizer.adapt": "a part of fit",
    "ProductQuantizer.encode_chunks": "a part of encode", "ProductQuantizer.count": "a part of add",
    "ProductQuantizer.lengths": "a part of add",
    "cpu_info": "asks the CPU", "recommend": "reads a sample of 4,096 rows", "cli info": "reads the head of a file",
    "Collection.*": "statements of SQLite, and calls of indexes; test_collection_where.py interrupts a condition",
    "cli collection": "calls of Collection", "estimate": "adds sizes up", "cli estimate": "adds sizes up",
    "datasets.load": "maps files", "datasets.read_?vecs": "maps a file", "interop.*": "copies arrays",
    "metrics.approximation_ratio": "some passes of NumPy over the input",
    "metrics.accuracy": "one pass of NumPy over the input", "metrics.confusion": "one pass of NumPy over the input",
    "metrics.fallout": "one pass of NumPy over the input", "metrics.precision": "one pass of NumPy over the input",
    "metrics.recall": "one pass of NumPy over the input",
}  # fmt: skip


def public_calls() -> Iterator[str]:
    """Functions and commands; constructors, methods and properties of classes."""
    for module, prefix in (
        (fpq, ""), (datasets, "datasets."), (metrics, "metrics."), (fpq.interop, "interop."), (fpq.dask, "dask."),
        (minhash, "minhash."),
        (pytest.importorskip("fpq.sklearn"), ""),
    ):  # fmt: skip
        named = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
        for name in named:
            thing = getattr(module, name)
            if not getattr(thing, "__module__", "fpq.of").startswith("fpq") or not callable(thing):
                continue
            if inspect.isfunction(thing):
                if thing.__module__ == module.__name__ or name in getattr(module, "__all__", []):
                    yield prefix + name
                continue
            yield f"{prefix}{name}()"
            for owner in thing.__mro__:
                if owner.__module__.startswith("fpq") and not issubclass(thing, tuple):
                    for member, value in vars(owner).items():
                        public = not member.startswith("_")
                        if public and (callable(value) or isinstance(value, (property, classmethod, staticmethod))):
                            yield f"{prefix}{name}.{member}"


def test_every_public_call_is_long_or_short(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = {f"cli {name}" for name in re.findall(r"^    (\w+)(?:  |$)", capsys.readouterr().out, re.M)}
    calls = {*public_calls(), *commands}
    long = {call for call in calls for case in LONG if case == call or case.startswith(f"{call} ")} | BELOW
    assert {case for case in LONG if not any(case == call or case.startswith(f"{call} ") for call in calls)} == set()
    assert BELOW <= calls
    left = calls - long
    assert {call for call in left if not any(fnmatch(call, pattern) for pattern in SHORT)} == set()
    assert {pattern for pattern in SHORT if not any(fnmatch(call, pattern) for call in left)} == set()


@pytest.mark.parametrize("case", LONG)
def test_a_long_call(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(LONG[case](Case(tmp_path, monkeypatch)))


# ---- what is left of an interrupted call ----


def test_one_query_with_many_probes() -> None:
    """All rows are in the bucket of the query, in each table."""
    index = fpq.E2LSHIndex(n_tables=1000, n_hashes=1, width=1e6).fit(WIDE).add(WIDE)
    index._tables, index._sketcher = index._tables._replace(sketches=None), None  # each row's distance is to be taken
    interrupt(lambda: [index.search(WIDE[0], 10, n_probe=1 << 20) for _ in range(1000)])


@pytest.mark.parametrize("name", INDEXES)
def test_add(name: str) -> None:
    index = copy.deepcopy(trained(name)).add(X[:100])
    before = faults.answers(index)
    interrupt(lambda: index.add(ENDLESS[: 10_000_000 if name not in CODES else None]))
    assert len(index) == 100 and faults.answers(index) == before


@pytest.mark.parametrize("name", [*CODES, *LSH])
def test_fit(name: str) -> None:
    index = {
        "PQIndex": lambda: fpq.PQIndex(32, nbits=8, rotation="opq"),
        "IVFPQIndex": lambda: fpq.IVFPQIndex(1000, 32, nbits=8),
        "E2LSHIndex": lambda: fpq.E2LSHIndex(n_tables=200, n_hashes=16),
        "C2LSHIndex": fpq.C2LSHIndex,
        "PMLSHIndex": fpq.PMLSHIndex,
    }[name]()
    rows = WIDE if name in LSH else ENDLESS
    interrupt(lambda: [index.fit(rows) for _ in range(1000)] if name in LSH else index.fit(rows))
    if name in CODES:
        assert not index.is_trained


@pytest.mark.parametrize("name", [*CODES, *LSH])
def test_tune(name: str) -> None:
    index = filled(name)
    before = {key: vars(index).get(key) for key in ("n_probe", "rerank", "n_candidates")}
    interrupt(lambda: index.tune(MANY + np.float32(0.1), 10, 0.999))
    assert {key: vars(index).get(key) for key in before} == before


@pytest.mark.parametrize("name", INDEXES)
def test_add_and_remove_again_and_again(name: str) -> None:
    """Each call is done or not."""
    index = filled(name)
    n = len(index)

    def change() -> None:
        while True:
            index.add(X[:2000], ids=np.arange(1_000_000, 1_002_000))
            index.remove(np.arange(1_000_000, 1_002_000))

    interrupt(change)
    assert len(index) in (n, n + 2000)
    index.remove(np.arange(1_000_000, 1_002_000))
    assert len(index) == n
    assert index.search(X[:5], 1).ids.ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", INDEXES)
def test_update(name: str) -> None:
    index = filled(name).copy()
    before = faults.answers(index)
    interrupt(lambda: index.update(ENDLESS[:10_000_000], ids=np.arange(10_000_000)))
    assert len(index) == 20_000 and faults.answers(index) == before


@pytest.mark.parametrize("name", INDEXES)
def test_update_again_and_again(name: str) -> None:
    """Each call is done or not."""
    index = filled(name).copy()
    ids = np.arange(0, 20_000, 2)

    def change() -> None:
        while True:
            index.update(X[1::2], ids)
            index.update(X[::2], ids)

    interrupt(change)
    assert np.sort(index.ids).tolist() == list(range(20_000))
    done = index.update(X[::2], ids).search(X[:6], 1).ids.ravel().tolist()
    assert done == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", INDEXES)
def test_merge_again_and_again(name: str) -> None:
    """Each call is done or not."""
    index, other = filled(name).copy(), trained(name).copy().add(X[:5000], np.arange(5000) + 10**6)
    before = faults.answers(other)

    def change() -> None:
        while True:
            index.merge(other)
            index.remove(other.ids)

    interrupt(change)
    assert len(index) in (20_000, 25_000) and faults.answers(other) == before
    index.remove(other.ids)
    assert len(index) == 20_000 and index.search(X[:5], 1).ids.ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", INDEXES)
def test_save(name: str, tmp_path: Path) -> None:
    index = filled(name)
    index.save(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    interrupt(lambda: [index.save(tmp_path / "a") for _ in range(1000)])
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and (tmp_path / "a").read_bytes() == before


def test_add_and_drop_shards_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Case(tmp_path, monkeypatch).sharded
    server = fpq.ShardedIndex(tmp_path / "manifest.json")

    def change() -> None:
        while True:
            index.drop_shard("2.fpq")
            server.reload()
            index.add_shard(tmp_path / "2.fpq", offset=10_000)
            server.reload()

    interrupt(change)
    assert len(index) in (10_000, 15_000) and len(server) in (10_000, 15_000)
    assert fpq.ShardedIndex(tmp_path / "manifest.json").shards == index.shards
    server.reload()
    assert server.shards == index.shards


def test_removal_from_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Case(tmp_path, monkeypatch).sharded
    interrupt(lambda: [index.remove([i, 5000 + i, 10_000 + i]) for i in range(5000)])
    assert len(index) % 3 == 0
    assert sorted(fpq.ShardedIndex(tmp_path / "manifest.json").ids) == sorted(index.ids)


@pytest.mark.parametrize("call", ["fit", "add", "update", "add and remove", "merge"])
def test_changes_of_documents(call: str) -> None:
    """Each call is done or not."""
    index = documents().copy()
    new, other = (
        fpq.MultiVectorIndex(1000, 32),
        index.copy().reset().add(X.reshape(5000, 4, D), np.arange(5000) + 10**6),
    )
    before = faults.answers(index)

    def change() -> None:
        index.add(X[:8000].reshape(2000, 4, D), ids=np.arange(2000) + 10**6)
        index.remove(np.arange(2000) + 10**6)

    def merge() -> None:
        index.merge(other)
        index.remove(other.ids)

    calls: dict[str, Callable[[], Any]] = {
        "fit": lambda: new.fit(ENDLESS, lengths=[len(ENDLESS)]),
        "add": lambda: index.add(ENDLESS[:10_000_000, None]),
        "update": lambda: index.update(ENDLESS[:10_000_000, None], ids=np.arange(10_000_000)),
        "add and remove": again(change),
        "merge": again(merge),
    }
    interrupt(calls[call])
    index.remove(other.ids)
    assert not new.is_trained and len(index) == 5000
    assert call in ("add and remove", "merge") or faults.answers(index) == before
    assert index.search(X[:4], 1, n_probe=64).ids.tolist() == [0]
