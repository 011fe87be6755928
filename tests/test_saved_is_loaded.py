"""What can be saved can be loaded and answers the same: all classes, arguments, types and scales of data.

FPQ_EXAMPLES sets how many examples are tried, FPQ_LEAST_SCALE and FPQ_MOST_SCALE how small and large data are (powers
of ten).
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import fpq

EXAMPLES = int(os.environ.get("FPQ_EXAMPLES", "80"))
SCALES = int(os.environ.get("FPQ_LEAST_SCALE", "-25")), int(os.environ.get("FPQ_MOST_SCALE", "18"))

SEEDS = st.one_of(st.integers(0, 5), st.just(2**62), st.just((1 << 128) - 1), st.just(np.uint8(7)))
METRICS = st.sampled_from(["l2", "ip", "cosine", np.str_("l2")])
FACTORS = st.one_of(st.none(), st.sampled_from([1, 1.5, np.float32(1.2), 1e300, 1.7976931348623157e308]))
POLICIES = st.one_of(
    FACTORS,
    st.builds(
        fpq.OpenIndexing, c=st.sampled_from([1.0, 1.3, 1e300]), candidates=st.sampled_from([1, 2, np.int64(3), 2**62]),
        scope=st.sampled_from(["subspace", "shared"]),
    ),
)  # fmt: skip
MANY = st.sampled_from([1, 2, 3, 25, np.int16(4), 256])
ROTATIONS = st.sampled_from(
    [{}, {}, {"rotation": "pca"}, {"rotation": "opq"}, {"rotation": "pca", "rotation_dim": np.int64(4)}]
)
WIDTHS = st.one_of(st.none(), st.none(), st.floats(1e-45, 1e300), st.sampled_from([1e-37, 2e-36, 1e-5, 1, 10.0, 1e38]))


def merged(*parts: Any) -> Any:
    return st.tuples(*parts).map(lambda found: {key: value for part in found for key, value in part.items()})


def options(**parts: Any) -> Any:
    return st.fixed_dictionaries(parts)


CODES = merged(
    options(m=st.sampled_from([1, 3, np.int32(4)]), nbits=st.sampled_from([1, 3, np.uint8(4), 5]), seed=SEEDS,
            open_indexing=POLICIES, metric=METRICS, keep_vectors=st.sampled_from([False, True, np.True_])),
    ROTATIONS,
)  # fmt: skip
INDEXES = st.one_of(
    st.tuples(st.just(fpq.FlatIndex), options(metric=METRICS)),
    st.tuples(st.just(fpq.PQIndex), CODES),
    st.tuples(
        st.just(fpq.IVFPQIndex),
        merged(
            CODES, options(n_lists=st.sampled_from([1, 5, np.int64(7)]), residual=st.booleans(), list_capacity=FACTORS)
        ),
    ),
    st.tuples(
        st.just(fpq.E2LSHIndex),
        options(n_tables=st.sampled_from([None, 1, 3]), n_hashes=st.sampled_from([None, 1, 5, np.int64(32)]),
                width=WIDTHS, metric=st.sampled_from(["l2", "cosine"]), seed=SEEDS,
                memory_limit=st.sampled_from([None, 10**6, 2**62])),
    ),
    st.tuples(
        st.just(fpq.C2LSHIndex),
        options(n_hashes=st.sampled_from([1, 12, 255]), width=WIDTHS, metric=st.sampled_from(["l2", "cosine"]),
                ratio=st.sampled_from([1.01, 1.5, 2, 1e18, 1e300]), delta=st.sampled_from([5e-324, 0.3, 1 - 1e-16]),
                beta=st.sampled_from([5e-324, 0.01, 1 - 1e-16]), seed=SEEDS),
    ),
    st.tuples(
        st.just(fpq.PMLSHIndex),
        options(n_hashes=st.sampled_from([4, np.int64(16), 64]), width=WIDTHS, seed=SEEDS,
                metric=st.sampled_from(["l2", "cosine"]), ratio=st.sampled_from([1, 1.2, 1e18, 1e300]),
                delta=st.sampled_from([5e-324, 0.3, 1 - 1e-16])),
    ),
)  # fmt: skip
QUANTIZERS = st.one_of(
    st.tuples(
        st.just(fpq.KMeans),
        options(n_clusters=st.sampled_from([1, 4, np.int64(30), 500]), n_iter=MANY, capacity=FACTORS, seed=SEEDS,
                init=st.sampled_from(["random", "k-means++"]), max_points_per_centroid=MANY),
    ),
    st.tuples(
        st.just(fpq.ProductQuantizer),
        merged(
            options(m=st.sampled_from([1, 3, np.int32(4)]), nbits=st.sampled_from([1, 3, 8]), seed=SEEDS, n_iter=MANY,
                    init=st.sampled_from(["random", "k-means++"]), max_points_per_centroid=MANY,
                    open_indexing=POLICIES),
            ROTATIONS,
        ),
    ),
)  # fmt: skip
DTYPES = st.sampled_from([np.float32, np.float32, np.float64, np.float16, np.uint8, np.int8])


ROWS = options(
    seed=st.integers(0, 99), d=st.sampled_from([4, 6, 33]), dtype=DTYPES, scale=st.integers(*SCALES),
    kind=st.sampled_from(["any", "any", "repeated", "constant column", "zeros"]),
)  # fmt: skip


def vectors(seed: int, d: int, dtype: Any, scale: int, kind: str) -> np.ndarray:
    """80 vectors of any size and type, with equal rows, constant columns and zeros at times."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, d))
    if np.issubdtype(dtype, np.integer):
        x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (80, d))
    elif dtype != np.float16:
        x *= 10.0**scale
    x = x.astype(dtype)
    if kind == "repeated":
        x = x[rng.integers(0, 3, 80)]
    elif kind == "constant column":
        x[:, 1] = x[0, 1]
    elif kind == "zeros":
        x[:] = 0
    return x


def same(a: Any, b: Any) -> None:
    for ours, theirs in zip(a, b, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def copies(thing: Any) -> Any:
    """The object after each way to a file and back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        thing.save(path)
        mapped = fpq.load(path, mmap=True)
        mapped.verify()
        yield fpq.load(path)
        if os.name == "posix":  # elsewhere a mapped file cannot be removed
            yield mapped
        del mapped
    yield pickle.loads(pickle.dumps(thing))
    yield copy.deepcopy(thing)


def accepted(make: Any, call: Any) -> Any:
    """What a call makes of arguments and data, or None where these are refused."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        event(f"{make.__name__} refused: {str(error).split(':')[0]}")
        return None


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(INDEXES, ROWS, st.data())
def test_indexes(kind: Any, about_rows: Any, data: Any) -> None:
    (make, arguments), x = kind, vectors(**about_rows)
    new = accepted(make, lambda: make(**arguments, n_threads=1))
    if new is None:
        return
    for other in copies(new):
        assert len(other) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*training rows for", RuntimeWarning)
        warnings.filterwarnings("ignore", ".*(no vectors were added|m is not the dimension)", UserWarning)
        index = accepted(make, lambda: new.fit(x))
        if index is None:
            return
        event(make.__name__)
        steps = data.draw(st.lists(st.sampled_from(["add", "ids", "remove", "last id", "set"]), max_size=4))
        for number, step in enumerate(steps):
            if step == "add" and index._ids.next_id < 1 << 62:
                index.add(x[:70])
            elif step == "ids":
                index.add(x[:3].astype(np.float64), ids=np.arange(3) * 7 + 10**6 * (number + 1))
            elif step == "last id" and 2**63 - 1 not in index.ids:
                index.add(x[:2], ids=[2**63 - 1, 2**62 + number])
            elif step == "remove":
                index.remove(index.ids[:: data.draw(st.sampled_from([1, 2, 5]))])
            elif step == "set":
                for name in ("n_probe", "n_candidates", "rerank"):
                    if hasattr(type(index), name) and (name != "rerank" or index.keep_vectors):
                        setattr(index, name, data.draw(st.sampled_from([1, 3, np.int64(50)])))
        queries = x[:5].astype(np.float32)
        answers = [index.search(queries, k) for k in (1, 5)]
        for other in copies(index):
            assert sorted(other.ids.tolist()) == sorted(index.ids.tolist())
            for k, answer in zip((1, 5), answers, strict=True):
                same(answer, other.search(queries, k))
            if len(index):
                same(index.range_search(queries, 1.0), other.range_search(queries, 1.0))
                same([index.reconstruct(index.ids)], [other.reconstruct(index.ids)])
            if other._file is None and index._ids.next_id < 1 << 62:  # and it goes on in the same way
                other.add(x[:4])
                more = copy.deepcopy(index).add(x[:4])
                same(more.search(queries, 5), other.search(queries, 5))


@settings(max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=list(HealthCheck))
@given(QUANTIZERS, ROWS)
def test_quantizers(kind: Any, about_rows: Any) -> None:
    (make, arguments), x = kind, vectors(**about_rows)

    def answers(thing: Any) -> list[np.ndarray]:
        if isinstance(thing, fpq.KMeans):
            return [thing.predict(x), thing.centroids]
        codes = thing.encode(x)
        return [codes, thing.decode(codes), thing.distance_table(x[:3]), thing.code_counts]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*training rows for", RuntimeWarning)
        warnings.filterwarnings("ignore", ".*(no vectors were added|m is not the dimension)", UserWarning)
        new = make(**arguments, n_threads=1)
        thing = accepted(make, lambda: new.fit(x))
        for other in copies(new):
            if thing is not None:
                same(answers(thing), answers(other))
                assert other.inertia == thing.inertia or math.isnan(other.inertia)
