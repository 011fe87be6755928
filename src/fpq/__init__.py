"""Approximate nearest-neighbour search on CPUs by product quantization.

Indexes
-------
FlatIndex
    Exact search over all vectors.
PQIndex
    Search over codes of 8 to 64 bytes per vector; re-ranking by kept vectors.
IVFPQIndex
    Search over codes in inverted lists: a query probes the lists nearest to it.
E2LSHIndex, C2LSHIndex, PMLSHIndex
    Locality-sensitive hashing over kept vectors.
MultiVectorIndex
    Search for documents of many token vectors by MaxSim (late interaction).
MinHashIndex
    Search for similar sets by MinHash.
ShardedIndex
    An index in several files that is searched like a single index.

Collection
    Vectors with keys and metadata in a folder, searched by vector and by SQL conditions.

`recommend` returns a `Recommendation`: a configured index for the shape of the data, a recall and a budget of bytes.
`estimate` returns an `Estimate`: the memory, the size of the file and the build time of an index before it is built.
Search returns a `SearchResult`, a range search a `RangeResult`. `load` reads a saved object, and raises `FormatError`
if the file is damaged. `cpu_info` tells the instruction set and the number of threads in use.

Learning and coding
-------------------
KMeans
    k-means clustering, optionally with a limit on the size of a cluster.
ProductQuantizer
    Codes of vectors: codebooks, encoding, decoding and distance tables.
OpenIndexing
    A limit on the number of rows per code.

Modules
-------
metrics
    Recall and other measures of the quality of results.
minhash
    Near-duplicate sets and texts: all similar pairs, clusters, shingles.
datasets
    Data sets by name, and readers of vector files.
progress
    Progress of long calls: log lines, bars, or your own function.
interop
    Conversion from and to faiss, and from nanopq; ``import fpq.interop``.
dask
    Training and building on a Dask cluster; ``import fpq.dask``.
sklearn
    scikit-learn estimators; ``import fpq.sklearn``.

Examples
--------
>>> import numpy as np, fpq
>>> X = np.random.default_rng(0).normal(size=(5000, 32)).astype(np.float32)
>>> index = fpq.PQIndex(m=16, keep_vectors=True).fit(X).add(X)
>>> distances, ids = index.search(X[:3], k=5, rerank=4)
>>> ids[:, 0].tolist()
[0, 1, 2]
"""

import os as _os
from typing import Any as _Any

from fpq import _install as _install  # first: it explains a broken installation
from fpq import _native, datasets, metrics, minhash
from fpq import threads as _threads
from fpq.collection import Collection
from fpq.estimation import Estimate, estimate
from fpq.indexes import (
    C2LSHIndex,
    E2LSHIndex,
    FlatIndex,
    IVFPQIndex,
    MinHashIndex,
    MultiVectorIndex,
    PMLSHIndex,
    PQIndex,
    RangeResult,
    SearchResult,
)
from fpq.learning.kmeans import KMeans
from fpq.learning.open_indexing import OpenIndexing
from fpq.learning.quantizer import ProductQuantizer
from fpq.recommendation import Recommendation, recommend
from fpq.sharding.index import ShardedIndex
from fpq.storage import FormatError, load

__all__ = [
    "C2LSHIndex",
    "Collection",
    "E2LSHIndex",
    "Estimate",
    "FlatIndex",
    "FormatError",
    "IVFPQIndex",
    "KMeans",
    "MinHashIndex",
    "MultiVectorIndex",
    "OpenIndexing",
    "PMLSHIndex",
    "PQIndex",
    "ProductQuantizer",
    "RangeResult",
    "Recommendation",
    "SearchResult",
    "ShardedIndex",
    "cpu_info",
    "datasets",
    "estimate",
    "load",
    "metrics",
    "minhash",
    "recommend",
]
__version__ = "0.1.0"

if _forced := _os.environ.get("FPQ_ISA"):
    _native.use_isa(_forced)


def cpu_info() -> dict[str, _Any]:
    """The instruction sets, threads and CPU features that fpq uses.

    Returns
    -------
    dict
        ``isa``: the instruction set in use (the variable FPQ_ISA selects another); ``isas``: those that this
        CPU supports; ``threads``: the default number of threads per call; ``openmp``: False for a build
        with one thread only; and the CPU features ``avx2, avxvnni, avx512, vbmi, vnni,
        neon`` as bools.

    Examples
    --------
    >>> import fpq
    >>> fpq.cpu_info()["isas"][0]
    'scalar'
    """
    return {
        "isa": _native.isa(),
        "isas": _native.isas(),
        "threads": _threads.resolve(None),
        "openmp": _native.has_openmp(),
        **{name: bool(has) for name, has in _native.features().items()},
    }
