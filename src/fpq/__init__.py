"""fpq: fast approximate nearest-neighbour search on CPUs."""

import os as _os
from typing import Any as _Any

from fpq import _install as _install  # first: it explains a broken installation
from fpq import _native, datasets, metrics
from fpq import threads as _threads
from fpq.indexes import C2LSHIndex, E2LSHIndex, FlatIndex, IVFPQIndex, PQIndex, RangeResult, SearchResult
from fpq.learning.kmeans import KMeans
from fpq.learning.open_indexing import OpenIndexing
from fpq.learning.quantizer import ProductQuantizer
from fpq.sharding.index import ShardedIndex
from fpq.storage import FormatError, load

__all__ = [
    "C2LSHIndex",
    "E2LSHIndex",
    "FlatIndex",
    "FormatError",
    "IVFPQIndex",
    "KMeans",
    "OpenIndexing",
    "PQIndex",
    "ProductQuantizer",
    "RangeResult",
    "SearchResult",
    "ShardedIndex",
    "cpu_info",
    "datasets",
    "load",
    "metrics",
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
        with one thread only; and the CPU features ``avx2, avx512, vbmi, vnni, neon`` as bools.

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
