"""Hashes of what fpq answers, to compare two checkouts: ``python bench/answers.py > before.txt`` in the one,
``python bench/answers.py --against before.txt`` in the other.

A line is "key hash": the key names the instruction set, the threads and the configuration; the hash is that of the bits
of all arrays of the answer. Covered are training, codes, and search, range_search and save of every kind of index over
small made-up data, for every instruction set that runs here. With --against the lines that differ are printed, and the
exit status is 1 if any differ. --isa names the instruction sets, --only a part of the keys to print.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that spin take time from other programs

import fpq
from fpq import _native

D = 40  # 16 subspaces of uneven width, 8 of even width
N, N_MANY, N_TRAIN, N_BATCH = 3000, 20_000, 1500, 300
THREADS = (1, 2)
KS = (1, 10, 100)
METRICS = ("l2", "ip", "cosine")
Line = tuple[str, str]


def clustered(n: int, seed: int) -> np.ndarray:
    """Rows around 60 centres, some of them twice, so that distances tie."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(60, D)) * 2
    x = (centres[rng.integers(0, 60, n)] + rng.normal(size=(n, D))).astype(np.float32)
    x[n // 2 : n // 2 + n // 50] = x[: n // 50]
    return x


def as_bytes(x: np.ndarray) -> np.ndarray:
    """The rows as uint8."""
    return np.clip(x * 16 + 128, 0, 255).astype(np.uint8)


FLOATS, QUERIES = clustered(N_MANY, 1), clustered(N_BATCH, 2)
ROWS = {"float32": FLOATS, "uint8": as_bytes(FLOATS)}
ASKED = {"float32": QUERIES, "uint8": as_bytes(QUERIES).astype(np.float32)}
OWN_IDS = np.random.default_rng(3).permutation(3 * N_MANY)  # ids that are no row numbers


def digest(call: Callable[..., Any], *args: Any, **named: Any) -> str:
    """The hash of what a call with these arguments returns, or the type of its error."""
    total = hashlib.sha256()
    try:
        found = call(*args, **named)
    except Exception as error:
        return type(error).__name__
    for array in found if isinstance(found, (tuple, list)) else [found]:
        array = np.ascontiguousarray(array)
        total.update(f"{array.dtype.str} {array.shape}".encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]


# ---- searches ----


def allowed(kind: str, n: int) -> np.ndarray:
    """Ids, or a mask by id, that a search may return."""
    if kind == "mask":
        return np.arange(int(OWN_IDS.max()) + 1) % 3 == 0
    return OWN_IDS[:n][:: 3 if kind == "many" else n // 5]


def searches(index: Any, n: int, q: np.ndarray, *, n_threads: int, brief: bool, **options: Any) -> Iterator[Line]:
    """Of one index that holds n rows; with `brief`, some of the searches."""
    filters: dict[str | None, tuple[tuple[int, ...], tuple[int, ...]]] = {  # each k of search, rank of range_search
        None: (KS, (5, 60)), "many": (KS[1:], (20,)), "few": ((10,), (20,)), "mask": ((10,), (20,)),
    }  # fmt: skip
    if brief:
        filters = {kind: ((10,), (20,)) for kind in filters if kind in (None, "many")}
    for batch, queries in (("one", q[0]), ("batch", q)):
        for kind, (ks, ranks) in filters.items():
            chosen = {"n_threads": n_threads, **options}
            if kind is not None:
                chosen["allowed"] = allowed(kind, n)
            name = f"{batch} allowed={kind}"
            for k in ks:
                yield f"{name} search k={k}", digest(index.search, queries, k, **chosen)
            chosen = {option: value for option, value in chosen.items() if option != "rerank"}
            for rank in ranks:
                radius = radius_of(index, q, rank, n_threads)
                yield f"{name} range rank={rank}", digest(index.range_search, queries, radius, **chosen)


def radius_of(index: Any, q: np.ndarray, rank: int, n_threads: int) -> float:
    """A distance that the first query has exactly; 1 where a search fails."""
    try:
        distance = float(index.search(q[0], rank, n_threads=n_threads).distances[-1])
    except Exception:
        return 1.0
    return distance if np.isfinite(distance) else 1.0


def life(name: str, index: Any, n: int, dtype: str, folder: Path, **options: Any) -> Iterator[Line]:
    """The answers of an index with n rows, after others are removed, and from its file."""
    q = ASKED[dtype]
    for n_threads in THREADS:
        for key, value in searches(index, n, q, n_threads=n_threads, brief=n > N, **options):
            yield f"threads={n_threads} {name} {key}", value
    path = folder / "index.fpq"
    index.save(path)
    for key, value in searches(fpq.load(path, mmap=True), n, q, n_threads=2, brief=True, **options):
        yield f"threads=2 {name} loaded mmap=True {key}", value
    changed = copy.deepcopy(index)
    changed.remove(OWN_IDS[: n // 2])
    for key, value in searches(changed, n, q, n_threads=2, brief=True, **options):
        yield f"threads=2 {name} removed {key}", value
    changed.add(ROWS[dtype][:500])
    for key, value in searches(changed, n, q, n_threads=1, brief=True, **options):
        yield f"threads=1 {name} added {key}", value
    yield f"threads=1 {name} reconstruct", digest(changed.reconstruct, changed.ids[::7])


# ---- configurations ----


def code_indexes() -> Iterator[tuple[str, str, int, Callable[[int], Any], dict[str, Any]]]:
    """Name, type of the rows, their number, what makes the index on so many threads, and the searches' options."""
    for metric in METRICS:
        for m, nbits in ((8, 8), (16, 8), (8, 4), (16, 4), (8, 5)):
            for dtype in ("float32", "uint8") if (m, nbits) == (16, 8) else ("float32",):
                yield (
                    f"PQIndex({m}, {nbits}, {metric}) {dtype}", dtype, N,
                    lambda t, m=m, b=nbits, s=metric: fpq.PQIndex(m, nbits=b, metric=s, n_threads=t), {},
                )  # fmt: skip
        for residual in (True, False):
            for m, nbits in ((16, 8), (8, 4), (8, 5)):
                for n_probe in (1, 5) if nbits == 8 else (5,):
                    dtype = "uint8" if (m, n_probe) == (8, 5) else "float32"
                    yield (
                        f"IVFPQIndex(16, {m}, {nbits}, residual={residual}, {metric}) {dtype} n_probe={n_probe}",
                        dtype, N,
                        lambda t, m=m, b=nbits, s=metric, r=residual: fpq.IVFPQIndex(
                            16, m, nbits=b, metric=s, residual=r, n_threads=t
                        ),
                        {"n_probe": n_probe},
                    )  # fmt: skip
    for m, nbits in ((16, 8), (16, 4)):
        yield f"PQIndex({m}, {nbits}) many", "float32", N_MANY, lambda t, m=m, b=nbits: fpq.PQIndex(m, nbits=b), {}
        for residual in (True, False):
            yield (
                f"IVFPQIndex(64, {m}, {nbits}, residual={residual}) many", "float32", N_MANY,
                lambda t, m=m, b=nbits, r=residual: fpq.IVFPQIndex(64, m, nbits=b, residual=r, n_threads=t),
                {"n_probe": 12},
            )  # fmt: skip
    for rotation in ("pca", "opq"):
        yield (
            f"PQIndex(8, 8, {rotation})", "float32", N,
            lambda t, r=rotation: fpq.PQIndex(8, nbits=8, rotation=r, rotation_dim=24, n_threads=t), {},
        )  # fmt: skip
        yield (
            f"IVFPQIndex(16, 8, 4, {rotation}) uint8", "uint8", N,
            lambda t, r=rotation: fpq.IVFPQIndex(16, 8, nbits=4, rotation=r, n_threads=t), {"n_probe": 5},
        )  # fmt: skip
    for metric in METRICS:
        yield (
            f"PQIndex(8, 4, {metric}) open_indexing rerank", "float32", N,
            lambda t, s=metric: fpq.PQIndex(8, nbits=4, open_indexing=1.5, keep_vectors=True, metric=s, n_threads=t),
            {"rerank": 4},
        )  # fmt: skip
        yield (
            f"IVFPQIndex(16, 8, 8, {metric}) capacity rerank uint8", "uint8", N,
            lambda t, s=metric: fpq.IVFPQIndex(16, 8, list_capacity=1.3, keep_vectors=True, metric=s, n_threads=t),
            {"n_probe": 5, "rerank": 4},
        )  # fmt: skip


def filled(make: Callable[[int], Any], n: int, dtype: str, n_threads: int) -> Any:
    """An index that has learned from some rows and holds n, in two pieces and under ids of their own."""
    index, x = make(n_threads), ROWS[dtype]
    index.fit(x[:N_TRAIN])
    return index.add(x[: n // 3], ids=OWN_IDS[: n // 3]).add(x[n // 3 : n], ids=OWN_IDS[n // 3 : n])


def of_codes(folder: Path) -> Iterator[Line]:
    """PQIndex and IVFPQIndex."""
    for number, (name, dtype, n, make, options) in enumerate(code_indexes()):
        n_threads = THREADS[number % 2]
        index = filled(make, n, dtype, n_threads)
        key = f"threads={n_threads} {name}"
        quantizer = index.quantizer
        state = [quantizer.codebooks, quantizer.code_counts, np.float64(quantizer.inertia)]
        state += [] if quantizer.rotation_matrix is None else [quantizer.rotation_matrix]
        state += [] if not hasattr(index, "centroids") else [index.centroids, index.list_sizes]
        yield f"{key} trained", digest(list, state)
        if hasattr(index, "codes"):
            yield f"{key} codes", digest(np.asarray, index.codes)
        else:
            yield f"{key} lists", digest(index.lists_of, index.ids)
        yield from life(name, index, n, dtype, folder, **options)


def of_rows(folder: Path) -> Iterator[Line]:
    """FlatIndex and the LSH indexes."""
    makers: list[tuple[str, Callable[[int], Any], dict[str, Any]]] = [
        *((f"FlatIndex({s})", lambda t, s=s: fpq.FlatIndex(s, n_threads=t), {}) for s in METRICS),
        *((f"E2LSHIndex({s})", lambda t, s=s: fpq.E2LSHIndex(n_tables=3, n_hashes=6, metric=s, n_threads=t),
           {"n_probe": 60})
          for s in ("l2", "cosine")),
        *((f"C2LSHIndex({s})", lambda t, s=s: fpq.C2LSHIndex(n_hashes=60, metric=s, n_threads=t), {"n_candidates": 200})
          for s in ("l2", "cosine")),
        *((f"PMLSHIndex({s})", lambda t, s=s: fpq.PMLSHIndex(metric=s, n_threads=t), {}) for s in ("l2", "cosine")),
    ]  # fmt: skip
    for name, make, options in makers:
        for dtype in ROWS:
            index = filled(make, N, dtype, 2)
            lsh, q = "LSH" in name, ASKED[dtype]
            if lsh:
                state = [np.float64(index.width), np.int64(index.n_hashes)]
                yield f"threads=2 {name} {dtype} trained", digest(list, state)
                yield f"threads=2 {name} {dtype} defaults", digest(index.search, q, 10)
            yield from life(f"{name} {dtype}", Effort(index, options) if lsh else index, N, dtype, folder)
            if name == "FlatIndex(l2)":
                yield f"threads=2 {name} {dtype} self", digest(index.search, ROWS[dtype][:N], 10)


class Effort:
    """An LSH index whose searches, but not range searches, take options."""

    def __init__(self, index: Any, options: dict[str, Any]) -> None:
        self._index, self._options = index, options

    def search(self, *args: Any, **named: Any) -> Any:
        """With the options."""
        return self._index.search(*args, **named, **self._options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_index", "_options"):
            raise AttributeError(name)
        return getattr(self._index, name)


def of_shards(folder: Path) -> Iterator[Line]:
    """ShardedIndex over each kind of shard."""
    for metric in METRICS:
        makers: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
            "FlatIndex": (fpq.FlatIndex(metric), {}, {}),
            "PQIndex": (fpq.PQIndex(8, nbits=8, metric=metric, keep_vectors=True), {}, {"rerank": 3}),
            "IVFPQIndex": (fpq.IVFPQIndex(16, 8, nbits=4, metric=metric), {"n_probe": 5}, {}),
        }
        for kind, (empty, options, more) in makers.items():
            files, each = [], N // 3
            empty.fit(FLOATS[:N_TRAIN])
            for i in range(3):
                files.append(folder / f"{kind}-{metric}-{i}.fpq")
                copy.deepcopy(empty).add(FLOATS[i * each : (i + 1) * each]).save(files[-1])
            offsets = [0, each, 2 * each]
            index = fpq.ShardedIndex.create(folder / f"{kind}-{metric}.json", files, offsets=offsets)
            for n_threads in THREADS:
                key = f"threads={n_threads} ShardedIndex({kind}, {metric})"
                for batch, queries in (("one", QUERIES[0]), ("batch", QUERIES)):
                    for chosen in ({}, {"allowed": np.arange(0, N, 3)}):
                        named = {"n_threads": n_threads, **options, **chosen}
                        radius = radius_of(index, QUERIES, 20, n_threads)
                        of = f"{batch} {'allowed ' if chosen else ''}"
                        for k in KS:
                            yield f"{key} {of}search k={k}", digest(index.search, queries, k, **named)
                        if more:
                            yield f"{key} {of}rerank", digest(index.search, queries, 10, **named, **more)
                        yield f"{key} {of}range", digest(index.range_search, queries, radius, **named)


def of_learning(_: Path) -> Iterator[Line]:
    """KMeans and ProductQuantizer by themselves."""
    types: dict[str, np.ndarray] = {
        **ROWS, "float16": FLOATS.astype(np.float16), "float64": FLOATS.astype(np.float64),
        "int8": (ROWS["uint8"].astype(np.int16) - 128).astype(np.int8),
    }  # fmt: skip
    for n_threads in THREADS:
        for dtype, x in types.items():
            for named in ({}, {"init": "k-means++"}, {"capacity": 1.2}, {"n_iter": 5}):
                if named and dtype not in ROWS:
                    continue
                kmeans = fpq.KMeans(50, n_threads=n_threads, **named).fit(x[:N])
                key = f"threads={n_threads} KMeans(50, {named}) {dtype}"
                yield f"{key} centroids", digest(list, [kmeans.centroids, np.float64(kmeans.inertia)])
                yield f"{key} predict", digest(kmeans.predict, x[:5000])
        kmeans = fpq.KMeans(100, n_threads=n_threads).fit(FLOATS[:12_000])
        yield f"threads={n_threads} KMeans(100) growing parts", digest(np.asarray, kmeans.centroids)
        for dtype, x in types.items():
            for m, nbits in ((8, 8), (16, 4), (7, 3)):
                key = f"threads={n_threads} ProductQuantizer({m}, {nbits}) {dtype}"
                pq = fpq.ProductQuantizer(m, nbits=nbits, n_threads=n_threads).fit(x[:N_TRAIN])
                codes = pq.encode(x[:5000])
                yield f"{key} codebooks", digest(list, [pq.codebooks, pq.code_counts])
                yield f"{key} codes", digest(np.asarray, codes)
                yield f"{key} decoded", digest(pq.decode, codes[:500])
                yield f"{key} tables", digest(pq.distance_table, QUERIES[:20])


def lines(isas: list[str]) -> Iterator[Line]:
    """All keys and hashes."""
    before = _native.isa()
    for isa in isas:
        _native.use_isa(isa)
        for part in (of_learning, of_codes, of_rows, of_shards):
            with tempfile.TemporaryDirectory() as folder:
                for key, value in part(Path(folder)):
                    yield f"isa={isa} {key}".replace("'", "").replace("{", "").replace("}", ""), value
    _native.use_isa(before)


def main() -> None:
    """Print the lines, or those that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, metavar="FILE", help="what another checkout has printed")
    parser.add_argument("--isa", nargs="*", default=list(_native.isas()), metavar="NAME")
    parser.add_argument("--only", default="", metavar="TEXT", help="keys that contain this text")
    options = parser.parse_args()
    found = (line for line in lines(options.isa) if options.only in line[0])
    if options.against is None:
        for key, value in found:
            print(key, value, flush=True)
        return
    before: dict[str, str] = {}
    for line in options.against.read_text(encoding="utf-8").splitlines():
        key, value = line.rsplit(" ", 1)
        if options.only in key and key.split()[0].removeprefix("isa=") in options.isa:
            before[key] = value
    after = dict(found)
    differing = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    for key in differing:
        print(f"{key}: {before.get(key, 'missing')} before, {after.get(key, 'missing')} now")
    print(f"{len(after) - sum(key in after for key in differing)} answers equal, {len(differing)} differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
