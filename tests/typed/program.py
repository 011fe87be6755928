"""A user's program, for type checkers: the lines marked "wrong", and no others, are errors."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import fpq

X: NDArray[np.float32] = np.zeros((1000, 32), np.float32)

index = fpq.IVFPQIndex(8, m=4, rotation="opq", metric="cosine", keep_vectors=True, seed=1).fit(X).add(X)
distances, ids = index.search(X[:5], k=3, n_probe=4, rerank=2, allowed=np.arange(50))
nearest: NDArray[np.int64] = ids[:, 0]
furthest: NDArray[np.float32] = distances[:, -1]
within = index.range_search(X[0], 0.5)
found: int = int(within.lims[-1])
index.n_probe = 2
settings: dict[str, int | None] = dict(index.tune(X[:100], k=3, recall=0.5).best.setting)
recall: float = fpq.metrics.recall_at_k(ids, ids)

index.save(Path("index.fpq"))
again = fpq.load("index.fpq", fpq.IVFPQIndex, mmap=True)
count: int = len(again) + again.nbytes + again.remove([1, 2])
lists: NDArray[np.int64] = again.list_sizes
dimension: int | None = again.dim

codes: NDArray[np.uint8] = fpq.ProductQuantizer(m=4).fit(X).encode(X)
labels: NDArray[np.int32] = fpq.KMeans(8).fit(X).predict(X)
flat = fpq.FlatIndex("ip").add([[1.0, 2.0], [3.0, 4.0]], ids=[7, 8])
hashed = fpq.E2LSHIndex(n_tables=4).fit(X).add(X)
documents = fpq.MultiVectorIndex(metric="ip").fit([X[:500], X[500:]]).add(X, lengths=[400, 600])
best: NDArray[np.int64] = documents.search([X[:3], X[:5]], k=1, n_candidates=2).ids
tokens: list[NDArray[np.float32]] = documents.reconstruct([0])
machine = fpq.cpu_info()["isa"]
estimate: fpq.Estimate = fpq.estimate(1_000_000, 128, fpq.IVFPQIndex(1500, m=25), dtype="uint8", ids=True)
seconds: float = estimate.build_seconds + estimate.peak_nbytes

with fpq.Collection.create("folder", dim=16, columns={"year": int}) as collection:
    collection.upsert(["a"], X[:1], [{"year": 2024}])
    row = collection.get("a")
    year: int = row.metadata["year"]
    rows: int = len(collection) + len(collection.get(["a"])) + collection.delete(where="year < ?", params=[2000])

fpq.FlatIndex("euclid")  # wrong
fpq.PQIndex(16, 8)  # wrong
fpq.MultiVectorIndex(metric="l2")  # wrong
fpq.PQIndex(rotation="pcs")  # wrong
index.search(X, k="10")  # wrong
index.search(X, nprobe=4)  # wrong
index.nprobe = 4  # wrong
again.kneighbors(X)  # wrong
fpq.estimate(1000, 128, fpq.PQIndex)  # wrong
