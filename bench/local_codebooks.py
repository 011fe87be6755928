"""LOPQ with codebooks per list or fewer dimensions: ``python bench/local_codebooks.py [--lists 64] [--data NAME]``.

`IVFPQIndex(local_rotations=True)` learns a rotation of each list, and one set of codebooks. Here the lists get
codebooks of their own too, or rotations to fewer dimensions. Squared error and recall@10 of the codes, all vectors
compared; the last column has the bytes of a code and what rotations and codebooks take per vector.
"""

import argparse

import numpy as np

import fpq
from fpq import datasets, metrics
from fpq.indexes.parts.coarse import CoarseQuantizer
from fpq.learning.kmeans import even_offsets
from fpq.learning.lloyd import LocalRows
from fpq.learning.local_rotation import LocalRotations

QUERIES = 1000


def main() -> None:
    """Print a row per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lists", type=int, default=64)
    parser.add_argument("--bytes", type=int, default=16)
    parser.add_argument("--data", default="sift500k")
    options = parser.parse_args()
    n_lists, m = options.lists, options.bytes
    data = datasets.load(options.data)
    x, queries = np.asarray(data.base, np.float32), np.asarray(data.query[:QUERIES], np.float32)
    truth = data.groundtruth[:QUERIES, :10]
    n, d = x.shape

    coarse = CoarseQuantizer(fpq.KMeans(n_lists, n_iter=10).fit(x).centroids, False, 2)
    lists = coarse.nearest(x, 2)
    residuals = coarse.residuals(x, lists, None, 2)
    in_lists = LocalRows(x, None, 2).grouped(coarse.nearest, n_lists)
    learned = LocalRotations.learned(in_lists, coarse.centroids, m, d, 2)
    rotated = learned.rotate(residuals, lists, 2)

    def show(way, decoded, per_list):
        """A line; `decoded` are the decoded residuals, rotated or not."""
        back = learned.inverse(decoded, lists, 2) if way != "one rotation" else decoded
        found = fpq.FlatIndex().add(back + coarse.centroids[lists]).search(queries, 10).ids
        error, recall = ((residuals - back) ** 2).sum(1).mean(), metrics.recall_at_k(found, truth, 10)
        print(f"| {way} | {error:,.4g} | {recall:.3f} | {m} + {per_list * n_lists / n:.1f} |", flush=True)

    def coded(rows, dim=d):
        """Rows, decoded from codes of their first dimensions in each subspace."""
        width = dim // m
        kept = np.concatenate([np.arange(at, at + width) for at in even_offsets(d, m)[:-1]])
        part = np.ascontiguousarray(rows[:, kept])
        quantizer = fpq.ProductQuantizer(m).fit(part)
        decoded = np.zeros_like(rows)
        decoded[:, kept] = quantizer.decode(quantizer.encode(part))
        return decoded

    print(f"{n_lists} lists, {n // n_lists:,} vectors per list\n\n| LOPQ | squared error | recall@10 | bytes |")
    print("|---|---:|---:|---:|")
    quantizer = fpq.ProductQuantizer(m, rotation="opq").fit(residuals)
    show("one rotation", quantizer.decode(quantizer.encode(residuals)), 0)
    for dim in (d, d * 3 // 4, d // 2):
        show(f"rotations to {dim} dimensions, codebooks of all", coded(rotated, dim), 4 * d * dim)
    own = np.empty_like(rotated)
    for number in range(n_lists):
        own[lists == number] = coded(rotated[lists == number])
    show("rotations and codebooks of each list", own, 4 * d * d + 4 * 256 * d)


if __name__ == "__main__":
    main()
