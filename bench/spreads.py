"""Which lists hold large inner products: ``python bench/spreads.py [--data glove50] [--lists 1024]``.

Rules that order the lists of a query: by its products with the centroids, by its squared distances to them, and by the
products plus a weight times the length of the query times the spread of the list (`IVFPQIndex` with "ip" and "cosine").
The share of all vectors that must be compared to see 90, 95, 98 and 99 % of the ten largest inner products; vectors of
length 1, and lengths multiplied by log-normal numbers.
"""

import argparse

import numpy as np

import fpq
from fpq import datasets

LENGTHS, WEIGHTS, SHARES, QUERIES = (0.0, 0.15, 0.4), (0.2, 0.3, 0.4), (0.9, 0.95, 0.98, 0.99), 3000


def compared(score, lists, truth):
    """The shares of the vectors in as many lists as hold each share of the true neighbours."""
    order = np.argsort(-score, axis=1)
    rank = np.argsort(order, axis=1)
    scanned = np.bincount(lists, minlength=score.shape[1])[order].cumsum(axis=1).mean(axis=0) / len(lists)
    reached = np.bincount(np.take_along_axis(rank, lists[truth], 1).ravel(), minlength=score.shape[1]).cumsum()
    return [scanned[np.searchsorted(reached, share * truth.size)] for share in SHARES]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="glove50")
    parser.add_argument("--lists", type=int, default=1024)
    options = parser.parse_args()
    data, rng = datasets.load(options.data), np.random.default_rng(0)
    base, queries = np.asarray(data.base, np.float32), np.asarray(data.query[:QUERIES], np.float32)
    print("| lengths | order of lists | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |")
    print("|---|---|" + "---:|" * len(SHARES))
    for sigma in LENGTHS:
        x = base * np.exp(rng.normal(0, sigma, len(base))).astype(np.float32)[:, None]
        truth = fpq.FlatIndex("ip").add(x).search(queries, 10).ids
        centroids = (
            fpq.KMeans(options.lists, n_iter=10).fit(x[rng.permutation(len(x))[: 256 * options.lists]]).centroids
        )
        nearest = fpq.FlatIndex().add(centroids).search(x, 1)
        lists = nearest.ids[:, 0]
        sums = np.bincount(lists, nearest.distances[:, 0], options.lists)
        spreads = np.sqrt(sums / np.maximum(np.bincount(lists, minlength=options.lists), 1))
        products, lengths = queries @ centroids.T, np.linalg.norm(queries, axis=1, keepdims=True)
        orders = {"products": products, "distances": products - (centroids**2).sum(axis=1) / 2}
        orders |= {f"products + {weight} spread": products + weight * lengths * spreads for weight in WEIGHTS}
        for name, score in orders.items():
            shares = " | ".join(f"{share:.1%}" for share in compared(score, lists, truth))
            print(f"| {f'sigma {sigma}' if sigma else '1'} | {name} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
