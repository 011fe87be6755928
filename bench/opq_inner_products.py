"""OPQ for the loss of inner products: ``python bench/opq_inner_products.py``.

`PQIndex(metric="ip", rotation="opq")` learns the rotation of least squared error, then codebooks of least anisotropic
loss. Here rotation and codebooks are improved in turn for that loss, and recall@10 is printed before and after.

With the error e = R^T x - y of a code and the weight w, the loss is |e|^2 + (w - 1) <e, R^T u>^2. Its second part is
replaced by its tangent at the last rotation, so a singular value decomposition again gives the best rotation: it brings
the rows x + (w - 1) <e, R^T u> u nearest to the decoded codes.
"""

import numpy as np

import fpq
from fpq import metrics
from fpq.learning import anisotropic
from fpq.learning.lloyd import LocalRows
from fpq.learning.prepared_rows import LocalPrepared
from fpq.learning.rotation import Rotation

CASES = (("glove50", 10), ("glove50", 25), ("minilm", 16), ("minilm", 48))
ROUNDS, SAMPLE, QUERIES, THREADS = 16, 1 << 16, 3000, 2


def recall(index, base, queries, truth):
    """recall@10 of a copy with all rows."""
    return metrics.recall_at_k(index.copy().add(base).search(queries, 10).ids, truth, 10)


def improve(pq, rows, weight):
    """Improve rotation and codebooks in turn."""
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    codebooks, matrix, offsets = pq.codebooks, pq._rotation.matrix, pq.offsets
    for turn in range(ROUNDS + 1):
        x, along = rows @ matrix, directions @ matrix
        taken = (LocalRows(y, None, THREADS) for y in (x, along))
        prepared = LocalPrepared(anisotropic.adapting(codebooks, offsets, None, *taken), THREADS)
        learned = anisotropic.adapted(codebooks, offsets, prepared, weight, len(x))
        codebooks = learned.centroids
        if turn == ROUNDS:
            break
        (ids,) = prepared.run(lambda found, _: (found.ids, found))
        books = zip(codebooks, ids, np.diff(offsets), strict=True)
        decoded = np.hstack([book[ids, :width] for book, ids, width in books])
        parallel = np.einsum("ij,ij->i", x - decoded, along)
        aims = rows + (weight - 1) * parallel[:, None] * directions
        left, _, right = np.linalg.svd((aims.T @ decoded).astype(np.float64), full_matrices=False)
        matrix = (left @ right).astype(np.float32)
    pq._learned(
        dim=pq.dim, codebooks=codebooks, code_counts=pq.code_counts, inertia=learned.inertia, n_iter_run=pq.n_iter_run,
        rotation=Rotation(matrix, pq._rotation.mean),
    )  # fmt: skip


def main():
    """Print a row per set and size."""
    print("| set | bytes | OPQ, then codebooks | in turn |\n|---|---:|---:|---:|")
    for name, m in CASES:
        data = fpq.datasets.load(name)
        base, queries = np.asarray(data.base, np.float32), np.asarray(data.query[:QUERIES], np.float32)
        truth = data.groundtruth[:QUERIES, :10]
        index = fpq.PQIndex(m, metric="ip", rotation="opq").fit(base)
        before = recall(index, base, queries, truth)
        chosen = np.sort(np.random.default_rng(0).choice(len(base), min(len(base), SAMPLE), replace=False))
        improve(index.quantizer, base[chosen], index.anisotropy)
        print(f"| {name} | {m} | {before:.3f} | {recall(index, base, queries, truth):.3f} |", flush=True)


if __name__ == "__main__":
    main()
