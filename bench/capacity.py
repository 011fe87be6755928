"""What a capacity of codes and of lists costs and gains: ``python bench/capacity.py [codes] [lists] [--data NAME]``.

With a capacity c no centroid takes more than c fair shares of the rows. The ways to reach that:

- order of arrival: OpenIndexing (FPQ paper, Algorithm 1); a row whose nearest centroid is full goes to the next;
- least loss: a full centroid gives away the rows whose squared distance grows least (`list_capacity` of IVFPQIndex);
- prices: a row takes the centroid of the least squared distance plus price, and a price rises while its centroid has
  too many rows (ascent of the dual of the assignment problem; the capacity holds roughly).

The centroids are those of k-means without a capacity, of k-means with one (`fpq.KMeans`, in order of arrival), and of
Lloyd iterations with prices. The first table has product codes of 16 bytes. The second has inverted lists: the share of
the ten nearest neighbours that are in the probed lists, for 8 probes and for as many probes as compare a share of the
vectors.
"""

import argparse

import numpy as np

import fpq
from fpq import datasets
from fpq.indexes.parts.list_capacity import move_in_order, move_to_room

NEXT = 64  # nearest centroids that a row can choose from, at prices
ASCENT, LLOYD = 60, 6  # iterations
ROWS = 50_000  # of the first table
INNER_PRODUCTS = ("glove50", "minilm")
SCANNED = (0.004, 0.008, 0.016, 0.032)  # shares of the vectors


def nearest(x, centroids, k=1):
    """Ids and squared distances of the k nearest centroids of each row."""
    found = fpq.FlatIndex().add(centroids).search(x, min(k, len(centroids)))
    return found.ids.astype(np.int32), found.distances


def without(x, centroids, c):
    """The nearest centroids."""
    return nearest(x, centroids)[0][:, 0]


def limited(x, centroids, c, move):
    """The nearest centroids, changed by `move` until none has more than c fair shares."""
    labels, limit = without(x, centroids, c).copy(), int(np.ceil(c * len(x) / len(centroids)))
    move(labels, x, lambda rows, threads: rows, centroids, np.zeros(len(centroids), np.int64), limit, 2)
    return labels


def by_arrival(x, centroids, c):
    """Rows choose in their order, among the centroids below the limit."""
    return limited(x, centroids, c, lambda *rest: move_in_order(np.arange(len(x)), *rest))


def by_loss(x, centroids, c):
    """As IVFPQIndex(list_capacity=c) assigns."""
    return limited(x, centroids, c, move_to_room)


def by_prices(x, centroids, c):
    """Steps are in units of the gap between the two nearest centroids of the rows there."""
    k, (ids, squared) = len(centroids), nearest(x, centroids, NEXT)
    gap, rows = squared[:, 1] - squared[:, 0], np.bincount(ids[:, 0], minlength=k)
    step = np.where(rows, np.bincount(ids[:, 0], gap, minlength=k) / np.maximum(rows, 1), gap.mean())
    prices = np.zeros(k, np.float32)
    for turn in range(ASCENT):
        labels = ids[np.arange(len(ids)), (squared + prices[ids]).argmin(1)]
        shares = np.maximum(np.bincount(labels, minlength=k), 1) * k / len(x)
        prices = np.maximum(0, prices + 0.96**turn * step * np.log(shares / c)).astype(np.float32)
    return labels


WAYS = {"order of arrival": by_arrival, "least loss": by_loss, "prices": by_prices}


def trained_by_prices(x, centroids, c):
    """Centroids after Lloyd iterations with prices; an empty cluster keeps its centroid."""
    for _ in range(LLOYD):
        labels = by_prices(x, centroids, c)
        used, begins = np.unique(np.sort(labels), return_index=True)
        sums = np.add.reduceat(x[np.argsort(labels, kind="stable")], begins)
        centroids = centroids.copy()
        centroids[used] = sums / np.bincount(labels)[used, None]
    return centroids


def show_codes(base, queries, m=16, k=256):
    """Print the table of product codes."""
    x = base[:ROWS]
    truth = fpq.FlatIndex().add(x).search(queries, 10).ids
    parts = np.ascontiguousarray(x.reshape(len(x), m, -1).transpose(1, 0, 2))

    def show(c, training, way, books, codes):
        decoded = np.concatenate([book[code] for book, code in zip(books, codes, strict=True)], axis=1)
        shares = np.stack([np.bincount(code, minlength=k) for code in codes]) / len(x)
        bits = -(shares * np.log2(np.maximum(shares, 1e-12))).sum(1).mean()
        recall = fpq.metrics.recall_at_k(fpq.FlatIndex().add(decoded).search(queries, 10).ids, truth, 10)
        error = ((x - decoded) ** 2).sum(1).mean()
        row = f"{training} | {way} | {error:,.0f} | {recall:.3f} | {bits:.2f} | {shares.max() * k:.2f}"
        print(f"| {c} | {row} |", flush=True)

    print("\n| c | codebooks | codes | squared error | recall@10 | bits of 8 | largest share |")
    print("|---|---|---|---:|---:|---:|---:|")
    plain = fpq.ProductQuantizer(m, init="random").fit(x).codebooks
    show("none", "k-means", "nearest", plain, [without(*both, 1) for both in zip(parts, plain, strict=True)])
    for c in (1.0, 1.5, 2.0):
        paper = fpq.ProductQuantizer(m, init="random", open_indexing=c).fit(x)
        show(c, "as the paper", "two candidates", paper.codebooks, paper.encode(x).T)
        limited = np.stack([fpq.KMeans(k, capacity=c, n_iter=25).fit(part).centroids for part in parts])
        prices = np.stack([trained_by_prices(part, book, c) for part, book in zip(parts, plain, strict=True)])
        for training, books in (("k-means", plain), ("with a capacity", limited), ("with prices", prices)):
            for way, assign in {**WAYS, "nearest": without}.items():
                if training != "k-means" or way != "nearest":
                    show(c, training, way, books, [assign(*both, c) for both in zip(parts, books, strict=True)])


def show_lists(base, queries, truth, k, inner_product):
    """Print the table of inverted lists."""
    n = len(base)
    training = base[np.random.default_rng(0).permutation(n)[: 256 * k]]

    def show(c, trained, way, centroids, labels):
        metric = "ip" if inner_product else "l2"
        probed = fpq.FlatIndex(metric=metric).add(centroids).search(queries, min(k, 512)).ids
        sizes = np.bincount(labels, minlength=k)
        scanned = np.cumsum(sizes[probed], axis=1)
        found = np.zeros(probed.shape[1])
        for lists, wanted in zip(probed, labels[truth], strict=True):
            found += (lists[:, None] == wanted).sum(1)
        covered, compared = np.cumsum(found) / truth.size, scanned.mean(0) / n
        error = ((base - centroids[labels]) ** 2).sum(1).mean()
        at = " | ".join(f"{np.interp(share, compared, covered):.3f}" for share in SCANNED)
        tail = np.percentile(scanned[:, 7], 99) / scanned[:, 7].mean()
        row = f"{trained} | {way} | {error:.4g} | {sizes.max() * k / n:.2f} | {tail:.2f} | {covered[7]:.3f}"
        print(f"| {c} | {row} | {at} |", flush=True)

    shares = " | ".join(f"{share:.1%}" for share in SCANNED)
    print(f"\n| c | centroids | lists | squared error | longest | p99 / mean | 8 probes | {shares} |")
    print("|---|---|---|" + "---:|" * (4 + len(SCANNED)))
    plain = fpq.KMeans(k, n_iter=10).fit(training).centroids
    show("none", "k-means", "nearest", plain, without(base, plain, 1))
    for c in (1.0, 1.25, 1.5, 2.0):
        limited = fpq.KMeans(k, n_iter=10, capacity=c).fit(training).centroids
        prices = trained_by_prices(training, plain, c)
        for trained, centroids in (("k-means", plain), ("with a capacity", limited), ("with prices", prices)):
            for way, assign in {**WAYS, "nearest": without}.items():
                if trained != "k-means" or way != "nearest":
                    show(c, trained, way, centroids, assign(base, centroids, c))


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="codes|lists")
    parser.add_argument("--data", default="sift500k")
    parser.add_argument("--lists", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=2000)
    options = parser.parse_args()
    loaded = datasets.load(options.data)
    base, queries = (np.asarray(a).reshape(len(a), -1).astype(np.float32) for a in (loaded.base, loaded.query))
    queries, truth = queries[: options.queries], np.asarray(loaded.groundtruth)[: options.queries, :10]
    if "codes" in (options.tables or ["codes"]):
        show_codes(base, queries)
    if "lists" in (options.tables or ["lists"]):
        show_lists(base, queries, truth, options.lists, options.data in INNER_PRODUCTS)


if __name__ == "__main__":
    main()
