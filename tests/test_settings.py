"""Arguments and attributes: whatever is accepted works and can be saved; all else is refused by its name."""

from __future__ import annotations

import contextlib
import copy
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fpq

X = np.random.default_rng(0).normal(size=(300, 12)).astype(np.float32)
EXTREMES = [
    1e300, 1e-300, 1e38, 1e-38, 1e18, 1e-25, 5e-324, 1 + 1e-15, 1 - 1e-15, 1.001, 0.5, 0.0, -0.0, -1.0, 4.0,
    2**31, 2**62, 2**63, 2**64, 10**400, 0, 1, 3, -1, -(10**400), math.nan, math.inf, -math.inf, True, False, None,
    np.int64(3), np.uint8(3), np.int8(-1), np.uint64(2**63), np.float16(2), np.float32(1e38), np.float64(2), np.True_,
    "x", "", b"x", 1j, (), [], {},
]  # fmt: skip
MAKERS: dict[Any, dict[str, Any]] = {
    fpq.KMeans: {"n_clusters": 4},
    fpq.ProductQuantizer: {"m": 3, "nbits": 3},
    fpq.FlatIndex: {},
    fpq.PQIndex: {"m": 3, "nbits": 3},
    fpq.IVFPQIndex: {"n_lists": 4, "m": 3, "nbits": 3},
    fpq.E2LSHIndex: {"n_tables": 2},
    fpq.C2LSHIndex: {"n_hashes": 12},
    fpq.PMLSHIndex: {"n_hashes": 12},
}
ARGUMENTS: dict[Any, list[str]] = {
    fpq.KMeans: ["n_clusters", "n_iter", "init", "max_points_per_centroid", "capacity", "seed", "verbose"],
    fpq.ProductQuantizer: [
        "m", "nbits", "rotation", "rotation_dim", "open_indexing", "n_iter", "init", "max_points_per_centroid", "seed",
        "verbose",
    ],
    fpq.FlatIndex: ["metric"],
    fpq.PQIndex: [
        "m", "nbits", "rotation", "rotation_dim", "open_indexing", "metric", "keep_vectors", "seed", "verbose",
    ],
    fpq.IVFPQIndex: [
        "n_lists", "m", "nbits", "residual", "list_capacity", "rotation", "rotation_dim", "open_indexing", "metric",
        "keep_vectors", "seed", "verbose",
    ],
    fpq.E2LSHIndex: ["n_tables", "n_hashes", "width", "metric", "memory_limit", "seed"],
    fpq.C2LSHIndex: ["n_hashes", "threshold", "width", "ratio", "delta", "beta", "metric", "seed"],
    fpq.PMLSHIndex: ["n_hashes", "width", "ratio", "delta", "metric", "seed"],
}  # fmt: skip
TOGETHER = {"rotation_dim": {"rotation": "pca"}}  # what an argument needs beside it


def use(thing: Any, path: Path) -> None:
    """Train, fill, ask, save and load."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*training rows for", RuntimeWarning)
        thing.fit(X)
    if not hasattr(thing, "search"):
        answers = thing.predict(X) if isinstance(thing, fpq.KMeans) else thing.encode(X)
        thing.save(path)
        loaded = fpq.load(path)
        again = loaded.predict(X) if isinstance(thing, fpq.KMeans) else loaded.encode(X)
        np.testing.assert_array_equal(answers, again)
        return
    thing.add(X)
    found = thing.search(X[:4], 3)
    thing.save(path)
    for loaded in (fpq.load(path), fpq.load(path, mmap=True), pickle.loads(pickle.dumps(thing))):
        for ours, theirs in zip(found, loaded.search(X[:4], 3), strict=True):
            np.testing.assert_array_equal(ours, theirs)


ROUNDED = "ignore:init. integers beyond:UserWarning"


@pytest.mark.filterwarnings("error", ROUNDED)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in ARGUMENTS.items() for name in names])
def test_constructor_arguments(kind: Any, name: str, tmp_path: Path) -> None:
    """An extreme value is refused by its name, by the constructor or by `fit`, or works like any other."""
    accepted = 0
    for value in EXTREMES:
        if name == "keep_vectors" and value in ("x", ""):
            continue  # files that do not exist
        try:
            use(kind(**{**MAKERS[kind], **TOGETHER.get(name, {}), name: value}, n_threads=1), tmp_path / "a")
            accepted += 1
        except (ValueError, TypeError) as error:
            assert name in str(error).split(":")[0], f"{value!r}: {type(error).__name__}: {error}"
    if (kind, name) == (fpq.PMLSHIndex, "n_hashes"):
        return  # of the extremes, none is a multiple of 4
    assert accepted or name in ("metric", "n_lists", "init", "threshold"), "all refused"


@pytest.mark.parametrize("kind", MAKERS)
def test_numbers_of_threads(kind: Any) -> None:
    for value in EXTREMES:
        with contextlib.suppress(ValueError, TypeError):
            assert type(kind(**MAKERS[kind], n_threads=value).n_threads) in (int, type(None))


def trained(kind: Any) -> Any:
    options = {"keep_vectors": True} if kind in (fpq.PQIndex, fpq.IVFPQIndex) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        thing = kind(**MAKERS[kind], **options).fit(X)
    return thing.add(X) if hasattr(thing, "add") else thing


SETTINGS = {
    kind: [name for name in dir(kind) if type(getattr(kind, name)).__name__ in ("Setting", "Fixed")] for kind in MAKERS
}


@pytest.mark.filterwarnings(ROUNDED)
@pytest.mark.parametrize("kind", MAKERS)
def test_attributes(kind: Any, tmp_path: Path) -> None:
    """Whatever an attribute can be set to, the object works and its file can be loaded, or the old file stays."""
    assert {"n_threads", "verbose"} < set(SETTINGS[kind])
    of_the_quantizer = SETTINGS[fpq.ProductQuantizer] if kind in (fpq.PQIndex, fpq.IVFPQIndex) else []
    assert set(ARGUMENTS[kind]) <= {*SETTINGS[kind], *of_the_quantizer}
    path, new = tmp_path / "a", trained(kind)
    for name in SETTINGS[kind]:
        for value in EXTREMES:
            thing = copy.deepcopy(new)
            before = getattr(thing, name)
            try:
                setattr(thing, name, value)
            except (ValueError, TypeError, AttributeError) as error:
                assert str(error).startswith(f"{name}:"), error
                assert getattr(thing, name) is before or np.array_equal(getattr(thing, name), before)
                continue
            assert type(getattr(thing, name)) in (int, float, bool, str, type(None), np.ndarray), (name, value)
            thing.n_threads = 1
            thing.save(path)
            loaded = fpq.load(path)
            if hasattr(thing, "search"):
                np.testing.assert_array_equal(thing.search(X[:3], 3).ids, loaded.search(X[:3], 3).ids)
            if name not in ("n_threads", "verbose") and name in vars(loaded):
                ours, theirs = getattr(thing, name), getattr(loaded, name)
                assert np.array_equal(ours, theirs) or theirs == min(ours, thing.n_lists), name


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (fpq.KMeans, lambda thing: setattr(thing, "inertia", np.int64(3))),
        (fpq.KMeans, lambda thing: setattr(thing, "centroids", np.zeros((4, 12)))),
        (fpq.KMeans, lambda thing: setattr(thing, "centroids", np.full((4, 12), np.nan, np.float32))),
        (fpq.ProductQuantizer, lambda thing: setattr(thing, "n_iter_run", -1)),
        (fpq.ProductQuantizer, lambda thing: thing.codebooks.fill(np.inf)),
        (fpq.PQIndex, lambda thing: setattr(thing, "quantizer", fpq.ProductQuantizer(2))),
        (fpq.IVFPQIndex, lambda thing: vars(thing).update(n_lists=5)),
        (fpq.E2LSHIndex, lambda thing: vars(thing).update(n_probe=np.int64(3))),
        (fpq.C2LSHIndex, lambda thing: vars(thing).update(n_candidates=0)),
        (fpq.PMLSHIndex, lambda thing: vars(thing).update(delta=0.0)),
        (fpq.FlatIndex, lambda thing: vars(thing).update(metric="l1")),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(make: Any, change: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "a"
    thing = trained(make)
    thing.save(path)
    before = path.read_bytes()
    change(thing)
    for call in (lambda: thing.save(path), lambda: pickle.dumps(thing)):
        with pytest.raises(ValueError, match=f"^{make.__name__}: its state could not be loaded again: "):
            call()
    assert path.read_bytes() == before


def test_arguments_of_open_indexing() -> None:
    for name in ("c", "candidates", "scope"):
        for value in EXTREMES:
            try:
                policy = fpq.OpenIndexing(**{name: value})
            except (ValueError, TypeError) as error:
                assert str(error).startswith(f"{name}:"), error
                continue
            assert type(getattr(policy, name)) in (int, float, str)
            index = fpq.PQIndex(3, nbits=3, open_indexing=policy, n_threads=1).fit(X).add(X)
            again = pickle.loads(pickle.dumps(index)).add(X)
            np.testing.assert_array_equal(index.add(X).codes, again.codes)


def test_sharded_index(tmp_path: Path) -> None:
    fpq.FlatIndex().add(X).save(tmp_path / "a")
    index = fpq.ShardedIndex.create(tmp_path / "manifest", [tmp_path / "a"])
    before = (tmp_path / "manifest").read_bytes()
    for value in EXTREMES:
        try:
            index.allow_partial = value
            assert type(index.allow_partial) is bool
        except ValueError as error:
            assert str(error).startswith("allow_partial: ")
            with pytest.raises(ValueError, match=r"^allow_partial: "):
                fpq.ShardedIndex.create(tmp_path / "manifest", [tmp_path / "a"], allow_partial=value)
    assert (tmp_path / "manifest").read_bytes() == before
