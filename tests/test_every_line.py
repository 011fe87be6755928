"""No memory or Ctrl-C before any line of any public method leaves an object as it was.

No memory within a line, too: each call, operator and index of an array fails. By default one line in STEP of each
method fails; FPQ_FAULT_STEP=1 takes all of them.
"""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faults
import numpy as np
import pytest

import fpq
from fpq import _settings
from fpq.blocks import LocalBlocks
from fpq.learning import training_rows
from fpq.sharding import manifest

STEP = int(os.environ.get("FPQ_FAULT_STEP", "24"))
N, D = 90, 34  # wide enough for sketches
X = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
Q = X[:2] + 0.1
MORE = X[:40] + 1

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*training rows for:RuntimeWarning"),
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning"),
]

FEW = {"n_threads": 1}
SHARDED = {"ShardedIndex"}
KINDS: dict[str, Callable[[], Any]] = {
    "flat": lambda: fpq.FlatIndex("cosine", **FEW),
    "pq": lambda: fpq.PQIndex(2, nbits=2, open_indexing=1.5, keep_vectors=True, **FEW),
    "pq plain": lambda: fpq.PQIndex(2, nbits=2, metric="ip", **FEW),
    "pq rotated": lambda: fpq.PQIndex(2, nbits=2, rotation="pca", metric="cosine", **FEW),
    "ivfpq": lambda: fpq.IVFPQIndex(3, 2, nbits=2, open_indexing=1.5, list_capacity=1.5, keep_vectors=True, **FEW),
    "ivfpq plain": lambda: fpq.IVFPQIndex(3, 2, nbits=2, metric="ip", residual=False, **FEW),
    "ivfpq kept": lambda: fpq.IVFPQIndex(3, 2, nbits=2, metric="cosine", keep_vectors=True, **FEW),
    "ivfpq refined": lambda: fpq.IVFPQIndex(3, 2, nbits=2, refine="sq4", **FEW),
    "ivfpq open": lambda: fpq.IVFPQIndex(3, 2, nbits=2, open_indexing=1.5, list_capacity=1.5, **FEW),
    "multi": lambda: fpq.MultiVectorIndex(3, 2, **FEW),
    "multi kept": lambda: fpq.MultiVectorIndex(3, 2, "ip", residual=False, keep_vectors=True, **FEW),
    "minhash": lambda: fpq.MinHashIndex(0.3, 16, **FEW),
    "minhash kept": lambda: fpq.MinHashIndex(n_hashes=16, bands=(8, 2), keep_sets=True, **FEW),
    "e2lsh": lambda: fpq.E2LSHIndex(n_tables=2, n_hashes=2, **FEW),
    "c2lsh": lambda: fpq.C2LSHIndex(n_hashes=20, **FEW),
    "pmlsh": lambda: fpq.PMLSHIndex(n_hashes=8, **FEW),
}
STREAMS = ("flat", "pq", "pq plain", "ivfpq", "ivfpq plain", "ivfpq kept", "ivfpq open")


def of(index: Any, x: Any) -> Any:
    """Rows as the index takes them: as vectors, as documents of one token each, or as sets of integers."""
    if isinstance(index, fpq.MinHashIndex):
        return [set(np.abs(row).astype(int).tolist()) for row in np.asarray(x) * 9]
    return x[:, None] if isinstance(index, fpq.MultiVectorIndex) else x


def queries(index: Any) -> Any:
    """Two queries."""
    return of(index, Q) if isinstance(index, fpq.MinHashIndex) else Q


def reconstructed(index: Any, ids: Any) -> Any:
    """What the index tells of these rows, if it keeps any."""
    return index.reconstruct(ids) if getattr(index, "keep_sets", True) else []


def filled(kind: str) -> Any:
    """With ids that are not row numbers, of which some have been removed."""
    index = KINDS[kind]()
    index.fit(of(index, X))
    if getattr(index, "keep_vectors", False):
        index.rerank = 2
    index.add(of(index, X.astype(np.float16) if kind == "flat" else X), ids=np.arange(N) * 2)
    assert index.remove(np.arange(0, 40, 4)) == 10
    return index


def renumbered(index: Any) -> Any:
    """Another index with the training of this one and with odd ids."""
    with faults.untraced():
        other = index.copy().reset()
        return other.add(of(other, MORE), ids=np.arange(len(MORE)) * 2 + 1)


def emptied(kind: str) -> Any:
    """Trained, and nothing in it any more."""
    index = filled(kind)
    index.remove(index.ids)
    return index


def observed(index: Any) -> Any:
    lock = index._lock
    assert not lock._readers and lock._writer is None and not lock._waiting
    params, arrays = index._state()
    answers: Any = None
    if index.is_trained and index.dim is not None:
        answers = [array.tobytes() for array in index.search(Q[:, : index.dim], 3)]
    elif isinstance(index, fpq.MinHashIndex) and len(index):
        answers = [array.tobytes() for array in index.search(queries(index), 3)]
    if answers is not None:
        answers.append([each.tobytes() for each in reconstructed(index, index.ids)])
    settings = {name: getattr(index, name, None) for name in ("n_probe", "rerank", "n_candidates", "n_threads")}
    return len(index), params, {name: array.tobytes() for name, array in arrays.items()}, answers, settings


def blocks() -> list[np.ndarray]:
    return [MORE[:15], MORE[15:16], MORE[16:]]


FITS: dict[str, Callable[[Any], Any]] = {
    "fit": lambda index: index.fit(of(index, X * 2)),
    "fit stream": lambda index: index.fit(iter([X[:50, :20], X[50:, :20]])),
    "fit blocks": lambda index: training_rows.learn(index, LocalBlocks.of_array(X * 2, 40)),
}
CHANGES: dict[str, Callable[[Any], Any]] = {
    "add": lambda index: index.add(of(index, MORE)),
    "add with ids": lambda index: index.add(of(index, MORE.astype(np.float64)), ids=np.arange(1000, 1040)),
    "remove": lambda index: index.remove(np.arange(0, 120, 3)),
    "remove all": lambda index: index.remove(index.ids),
    "reset": lambda index: index.reset(),
    "merge": lambda index: index.merge(renumbered(index)),
    "update": lambda index: index.update(of(index, MORE), ids=np.arange(20, 100, 2)),
    "update all": lambda index: index.update(of(index, X[: len(index)].astype(np.float16)), ids=index.ids[::-1]),
}
STREAMED: dict[str, Callable[[Any], Any]] = {
    "add stream": lambda index: index.add(iter(blocks())),
    "add stream with ids": lambda index: index.add(iter(blocks()), ids=np.arange(1000, 1040)),
}
READS: dict[str, Callable[[Any], Any]] = {
    "search": lambda index: index.search(queries(index), 3),
    "search some": lambda index: index.search(
        of(index, Q)[:1] if isinstance(index, fpq.MinHashIndex) else of(index, Q)[0], 3, allowed=index.ids[::2]
    ),
    "range_search": lambda index: index.range_search(queries(index), 10.0),
    "reconstruct": lambda index: reconstructed(index, index.ids[:9]),
    "pickle": lambda index: pickle.loads(pickle.dumps(index)),
    "copy": lambda index: index.copy().remove(index.ids),
    "in": lambda index: [number in index for number in range(20)],
}


def cases() -> list[tuple[str, str, str]]:
    """Kind, object, call."""
    found = []
    for kind in KINDS:
        fits = [name for name in FITS if name == "fit" or kind in STREAMS[1:]]
        found += [(kind, state, name) for state in ("new", "emptied") for name in fits]
        found += [(kind, "filled", name) for name in [*CHANGES, *(STREAMED if kind in STREAMS else ()), *READS]]
        found += [(kind, "filled", name) for name in (ONLY_IVF if kind.startswith("ivf") else ())]
    return found


ONLY_IVF: dict[str, Callable[[Any], Any]] = {"lists_of": lambda index: index.lists_of(index.ids[:9])}


def test_every_public_method_has_a_case() -> None:
    """And every kind of index."""
    saved = {"save", "verify"}  # in test_save_and_load
    cases = {name.split()[0] for name in [*FITS, *CHANGES, *STREAMED, *READS, *ONLY_IVF]} | {"tune"} | saved
    classes = {type(make()) for make in KINDS.values()}
    assert {each.__name__ for each in classes} == {name for name in fpq.__all__ if name.endswith("Index")} - SHARDED
    for each in classes:
        public = {name for name in dir(each) if not name.startswith("_") and callable(getattr(each, name))}
        settings = {name for name in public if isinstance(getattr(each, name), _settings.Setting)}
        assert public - settings <= cases, each
        assert not hasattr(each, "tune") or any(type(KINDS[kind]()) is each for kind in TUNES)


def contents(value: Any) -> Any:
    """All that an attribute holds, to be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, (list, tuple)):
        return [contents(each) for each in value]
    if isinstance(value, dict) or (hasattr(value, "__dict__") and type(value).__module__.startswith("fpq.")):
        return {name: contents(each) for name, each in (value if isinstance(value, dict) else vars(value)).items()}
    return repr(value) if isinstance(value, (int, float, str, bytes, type(None))) else id(value)


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_is_declared_in_the_class(kind: str) -> None:
    """A change of blocks is taken back by the names of the attributes that it may change."""
    index = KINDS[kind]()
    declared = {name for each in type(index).__mro__ for name in vars(each).get("_state_names", ())}
    assert declared

    def others() -> dict[str, Any]:
        return {name: contents(value) for name, value in vars(index).items() if name not in declared}

    before = others()
    changes = (
        lambda: index.fit(of(index, X)), lambda: index.add(of(index, X)), lambda: index.remove(np.arange(0, 40, 4)),
        lambda: index.update(of(index, X[:9]), range(5, 14)), index.reset, lambda: index.merge(renumbered(index)),
    )  # fmt: skip
    for change in changes:
        change()
        assert others() == before
    assert declared <= set(vars(index))


@pytest.mark.parametrize(("kind", "state", "name"), cases(), ids=lambda each: each)
def test_indexes(kind: str, state: str, name: str) -> None:
    pristine = {"new": KINDS[kind], "emptied": lambda: emptied(kind), "filled": lambda: filled(kind)}[state]()
    call = {**FITS, **CHANGES, **STREAMED, **READS, **ONLY_IVF}[name]
    faults.every_line(lambda: copy.deepcopy(pristine), call, observed, step=STEP, salt=f"{kind} {state} {name}")


TUNES: dict[str, Callable[[Any], Any]] = {
    "pq": lambda index: index.tune(Q, 3, recall=0.1),
    "ivfpq": lambda index: index.tune(iter([Q[:1], Q[1:]]), 3, recall=0.1, X=np.repeat(X, 2, axis=0)),
    "ivfpq plain": lambda index: index.tune(Q, 3, recall=0, X=iter([np.repeat(X, 2, axis=0)])),
    "e2lsh": lambda index: index.tune(Q, 3, recall=0.1),
    "c2lsh": lambda index: index.tune(Q, 3, recall=0.1),
    "pmlsh": lambda index: index.tune(Q, 3, recall=0.1),
}


@pytest.mark.parametrize("kind", TUNES)
def test_tune(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**9))  # the choice goes by time
    monkeypatch.setattr("fpq.tuning.time.perf_counter", lambda: next(clock))
    pristine = filled(kind)

    def observe(index: Any) -> Any:
        return observed(index)[:4]  # answers go by what was chosen

    faults.every_line(lambda: copy.deepcopy(pristine), TUNES[kind], observe, step=STEP, salt=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    index = filled(kind)

    def old_file() -> Any:
        KINDS[kind]().save(path)
        return index

    def files(index: Any) -> Any:
        assert os.listdir(tmp_path) == ["a"]
        return path.read_bytes(), observed(index)

    faults.every_line(old_file, lambda index: index.save(path), files, step=STEP, salt=kind)
    index.save(path)
    for mmap in (False, True):
        faults.every_line(
            lambda: index, lambda _, mmap=mmap: fpq.load(path, mmap=mmap), files, step=STEP, salt=f"{kind} {mmap}"
        )
    mapped = fpq.load(path, mmap=True)
    faults.every_line(lambda: mapped, lambda mapped: mapped.verify(), observed, step=STEP, salt=kind)


QUANTIZERS: dict[str, Callable[[], Any]] = {
    "kmeans": lambda: fpq.KMeans(3, **FEW),
    "kmeans limited": lambda: fpq.KMeans(3, capacity=1.2, init="k-means++", **FEW),
    "pq": lambda: fpq.ProductQuantizer(2, nbits=2, open_indexing=1.2, **FEW),
    "pq 8 bits": lambda: fpq.ProductQuantizer(1, nbits=8, n_iter=2, **FEW),
    "opq": lambda: fpq.ProductQuantizer(2, nbits=2, rotation="opq", rotation_dim=4, **FEW),
}
USES: dict[str, Callable[[Any], Any]] = {
    "fit": lambda thing: thing.fit(X[:, :20] * 2),
    "predict or encode": lambda thing: (
        thing.predict(X) if isinstance(thing, fpq.KMeans) else [thing.decode(thing.encode(X)), thing.distance_table(Q)]
    ),
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("kind", QUANTIZERS)
def test_quantizers(kind: str, name: str) -> None:
    trained = QUANTIZERS[kind]().fit(X)
    step = STEP * (5 if kind in ("opq", "pq 8 bits") and name == "fit" else 1)  # which take long
    for pristine in [trained, QUANTIZERS[kind]()] if name == "fit" else [trained]:
        faults.every_line(
            lambda pristine=pristine: copy.deepcopy(pristine), USES[name], lambda thing: thing._pieces(),
            step=step, salt=f"{kind} {name}",
        )  # fmt: skip


def test_shards(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    files = [tmp_path / f"{i}.fpq" for i in range(3)]
    for i, file in enumerate(files):
        fpq.FlatIndex().add(X[30 * i : 30 * i + 30]).save(file)

    def made(index: Any = None) -> Any:
        path.unlink(missing_ok=True)
        fpq.ShardedIndex.create(path, files[:2], offsets=[0, 100])
        return fpq.ShardedIndex(path)

    def observe(index: Any) -> Any:
        assert len(os.listdir(tmp_path)) == 4
        assert manifest.read(path) == index._manifest
        return index._manifest, [array.tobytes() for array in index.search(Q, 3)]

    calls: dict[str, Callable[[Any], Any]] = {
        "add": lambda index: index.add_shard(files[2], offset=200),
        "drop": lambda index: index.drop_shard("1.fpq"),
        "search": lambda index: index.search(Q, 3, allowed=[3, 105]),
        "range search": lambda index: index.range_search(Q, 10.0),
        "verify": lambda index: index.verify(),
    }
    for name, call in calls.items():
        faults.every_line(made, call, observe, step=STEP, salt=name)

    def replaced() -> Any:
        index = made()
        fpq.ShardedIndex(path).add_shard(files[2], offset=200)
        return index

    faults.every_line(
        replaced, lambda index: index.reload(), lambda index: (index._manifest, index.search(Q, 3).ids.tobytes()),
        step=STEP, salt="reload",
    )  # fmt: skip

    def create(_: Any) -> Any:
        return fpq.ShardedIndex.create(path, files, offsets=[0, 100, 200])

    faults.every_line(made, create, lambda _: path.read_bytes(), step=STEP)
