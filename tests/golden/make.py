"""Writes the golden files of this folder: ``python tests/golden/make.py NAME...``, for new kinds only.

A golden file is never written anew: that it stays loadable is what it is for.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

import fpq
from fpq.indexes.parts.operating_points import OperatingPoints

FOLDER = Path(__file__).parent


def rows(seed: int, n: int, d: int = 10) -> Any:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def pq(**options: Any) -> fpq.PQIndex:
    return fpq.PQIndex(2, **options).fit(rows(1, 600))


def ivfpq(**options: Any) -> fpq.IVFPQIndex:
    return fpq.IVFPQIndex(5, 2, **options).fit(rows(1, 700))


def refined(kind: Any) -> fpq.IVFPQIndex:
    return changed(ivfpq(refine=kind).add(rows(2, 200), ids=np.arange(200) * 3))  # type: ignore[no-any-return]


def bfloat16(x: Any) -> Any:
    import ml_dtypes  # nothing but the making of these files needs this package

    return x.astype(ml_dtypes.bfloat16)


def documents(seed: int, n: int) -> Any:
    return np.split(rows(seed, 3 * n), np.cumsum(np.arange(n - 1) % 5 + 1))


def multi(**options: Any) -> fpq.MultiVectorIndex:
    return fpq.MultiVectorIndex(5, 2, **options).fit(documents(1, 300))


def sets(seed: int, n: int) -> Any:
    """Sets of up to eight integers, of which many are similar."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 9, size).tolist() for size in rng.integers(0, 9, n)]


def changed(index: Any) -> Any:
    index.remove(index.ids[:5])
    return index


def tuned(index: Any) -> Any:
    index._points = OperatingPoints(7, np.array([0.5, 0.9]), np.array([1, 3]), np.array([0, 2]))  # times differ by run
    return index


RECIPES = {
    "kmeans": lambda: fpq.KMeans(3, capacity=1.5).fit(rows(1, 60)),
    "quantizer": lambda: fpq.ProductQuantizer(3, nbits=4, rotation="pca", rotation_dim=7, open_indexing=1.5).fit(
        rows(1, 90)
    ),
    "flat": lambda: fpq.FlatIndex().add((rows(2, 70) * 40 + 128).clip(0, 255).astype(np.uint8)),
    "flat-ids": lambda: changed(fpq.FlatIndex("cosine").add(rows(2, 70), ids=np.arange(70) * 3)),
    "flat-bfloat16": lambda: changed(fpq.FlatIndex("cosine").add(bfloat16(rows(2, 70)))),
    "flat-empty": lambda: fpq.FlatIndex("ip"),
    "pq": lambda: pq().add(rows(2, 70)),
    "pq-vectors": lambda: changed(
        pq(nbits=5, rotation="opq", open_indexing=2.0, metric="ip", keep_vectors=True).add(
            rows(2, 70).astype(np.float16), ids=np.arange(70)[::-1]
        )
    ),
    "pq-refine": lambda: pq(rotation="pca", metric="ip", refine="sq6").add(rows(2, 70)),
    "pq-untrained": lambda: fpq.PQIndex(2, nbits=4),
    "ivfpq": lambda: changed(ivfpq(keep_vectors=True).add(rows(2, 200), ids=np.arange(200) * 3)),
    "ivfpq-bfloat16": lambda: ivfpq(keep_vectors=True).add(bfloat16(rows(2, 200)), ids=np.arange(200)[::-1]),
    "ivfpq-plain": lambda: ivfpq(residual=False, metric="ip", open_indexing=2.0, list_capacity=1.2).add(rows(2, 200)),
    "ivfpq-4bit": lambda: ivfpq(nbits=4, metric="cosine", rotation="pca").add(rows(2, 200)),
    "ivfpq-refine": lambda: refined("sq8"),  # before the order of rows
    "ivfpq-refine-rows": lambda: refined("sq8"),
    "ivfpq-sq4": lambda: refined("sq4"),  # before gains
    "ivfpq-sq4-gains": lambda: refined("sq4"),  # before the order of rows
    "ivfpq-sq4-rows": lambda: refined("sq4"),  # before the trellis
    "ivfpq-sq4-trellis": lambda: refined("sq4"),
    "ivfpq-sq4-even": lambda: refined("sq4"),  # before levels
    "ivfpq-tuned": lambda: tuned(ivfpq(keep_vectors=True).add(rows(2, 200))),
    "ivfpq-spreads": lambda: ivfpq(metric="ip").add(rows(2, 200)),
    "ivfpq-local-dim": lambda: ivfpq(local_rotations=True, rotation_dim=8).add(rows(2, 200)),
    "ivfpq-local": lambda: changed(ivfpq(local_rotations=True).add(rows(2, 200), ids=np.arange(200) * 3)),
    "ivfpq-anisotropic": lambda: changed(ivfpq(metric="ip", rotation="pca").add(rows(2, 200))),
    "ivfpq-untrained": lambda: fpq.IVFPQIndex(3, 2, nbits=4),
    "multi": lambda: changed(multi(keep_vectors=True).add(documents(2, 90), ids=np.arange(90) * 3)),
    "multi-plain": lambda: multi(metric="ip", residual=False).add(documents(2, 90)),
    "multi-untrained": lambda: fpq.MultiVectorIndex(3, 2),
    "minhash": lambda: changed(fpq.MinHashIndex(0.4, 32, bits=16).add(sets(2, 90), ids=np.arange(90) * 3)),
    "minhash-sets": lambda: fpq.MinHashIndex(n_hashes=16, bands=(5, 2), keep_sets=True, seed=3).add(sets(2, 90)),
    "minhash-empty": fpq.MinHashIndex,
    "e2lsh": lambda: changed(
        fpq.E2LSHIndex(n_tables=3, n_hashes=4).fit(rows(1, 200)).add(rows(2, 70), ids=np.arange(70)[::-1])
    ),
    "e2lsh-sketches": lambda: (
        fpq.E2LSHIndex(n_tables=2, n_hashes=2, metric="cosine").fit(rows(1, 200, 32)).add(rows(2, 70, 32))
    ),
    "e2lsh-untrained": lambda: fpq.E2LSHIndex(width=2.0),
    "c2lsh": lambda: changed(fpq.C2LSHIndex(n_hashes=20).fit(rows(1, 200)).add((rows(2, 70) * 40).astype(np.int8))),
    "pmlsh": lambda: changed(fpq.PMLSHIndex(ratio=1.5).fit(rows(1, 200)).add((rows(2, 70) * 40).astype(np.int8))),
    "pmlsh-sketches": lambda: fpq.PMLSHIndex(n_hashes=20).fit(rows(1, 200, 32)).add(rows(2, 70, 32)),
    "c2lsh-sketches": lambda: fpq.C2LSHIndex(n_hashes=20, ratio=3.0).fit(rows(1, 200, 32)).add(rows(2, 70, 32)),
}


# Files whose refinement codes are by slot: to save them again writes these by row.
BY_SLOT = {"ivfpq-refine", "ivfpq-sq4", "ivfpq-sq4-gains", "ivfpq-sq4-even"}


def answers(thing: Any) -> dict[str, Any]:
    """What an object says about the same questions, then and now."""
    queries = rows(3, 4, getattr(thing, "dim", None) or 10)
    if isinstance(thing, fpq.KMeans):
        return {"ids": thing.predict(queries), "distances": thing.centroids}
    if isinstance(thing, fpq.ProductQuantizer):
        return {"ids": thing.encode(queries), "distances": thing.distance_table(queries)}
    if isinstance(thing, fpq.MinHashIndex):
        similarities, ids = thing.search(sets(3, 4), k=7)
        return {"ids": ids, "distances": similarities}
    if not thing.is_trained:
        return {"ids": thing.ids, "distances": thing.ids}
    by_recall = {"recall": 0.8} if getattr(thing, "_points", None) else {}
    distances, ids = thing.search(queries, k=7, **by_recall)
    return {"ids": ids, "distances": distances}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        thing = RECIPES[name]()
        thing.save(FOLDER / f"{name}.fpq")
        np.savez_compressed(FOLDER / f"{name}.npz", **answers(thing))
