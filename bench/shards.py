"""Whether sift500k in 1, 2, 7 and 50 shards answers as one index does, to the bit: python bench/shards.py"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import fpq
import fpq.dask

QUERIES = 200


def main() -> None:
    data = fpq.datasets.load("sift500k")
    x, q = data.base, data.query[:QUERIES]
    for empty in (fpq.FlatIndex(), fpq.IVFPQIndex(256, m=16).fit(x)):
        fresh = Path(tempfile.mkdtemp())
        empty.save(fresh / "empty.fpq")
        expected = fpq.load(fresh / "empty.fpq").add(x).search(q, 100)
        for parts in (1, 2, 7, 50):
            with tempfile.TemporaryDirectory() as folder:
                manifest = fpq.dask.build(empty, iter(np.array_split(x, parts)), folder)
                found = fpq.ShardedIndex(manifest).search(q, 100)
            same = all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
            print(f"{type(empty).__name__}, {parts} shards: {'the same' if same else 'DIFFERENT'}", flush=True)


if __name__ == "__main__":
    main()
