"""Learning from rows that are never in memory together, and on many machines."""

from __future__ import annotations

from typing import Any

from fpq.dask import blocks
from fpq.indexes import FlatIndex
from fpq.learning import training_rows
from fpq.sharding import manifest


def fit(index: Any, X: Any, *, client: Any = None) -> Any:
    """Train an index from a sample of rows: on the workers of a cluster if there is one, else here.

    The sample is the one that ``index.fit`` would draw of all rows, so that the index is the same, bit for bit, as one
    that has been given all rows at once, whatever the number of workers and the sizes of the blocks. An iterable does
    not say how many rows it has: of more than `fit` learns from, it draws others, by the seed of the index, which do
    not depend on the sizes of the blocks either. NaN and infinity are found in the sample only.

    On a cluster the sample stays with the workers. In each iteration of k-means, for the centroids of the lists and
    then for the codebooks of all subspaces at once, they assign their rows and sum them up (map); the sums, up to 16 MB
    or two tables of all centroids, come here and become means (reduce): the PKMeans of the FPQ paper. Iterations over
    few rows, or with many centroids, have fewer tasks than a large cluster has threads. What depends on all rows
    together is learned here, from the sample: rotations and the codebooks after them, codebooks with `open_indexing`,
    centroids with `list_capacity` or of 8,192 lists and more.

    Parameters
    ----------
    index : PQIndex, IVFPQIndex or FlatIndex (which has nothing to learn)
        Without vectors.
    X : Dask array (n, d), memory-mapped or other array (n, d), or iterable of arrays
        Memory is taken for the sample, here or on the cluster twice, and for some blocks at a time.
    client : dask.distributed.Client, optional
        As in `build`.

    Returns
    -------
    index

    Raises
    ------
    ValueError, TypeError
        As ``index.fit``; an error in a block names the partition. The index is then as before.
    ConnectionError
        If the scheduler goes away.

    Examples
    --------
    >>> import numpy as np, fpq, fpq.dask
    >>> X = np.random.default_rng(0).normal(size=(9000, 8)).astype(np.float32)
    >>> index = fpq.dask.fit(fpq.PQIndex(m=4, nbits=4), X)
    >>> bool((index.quantizer.codebooks == fpq.PQIndex(m=4, nbits=4).fit(X).quantizer.codebooks).all())
    True
    """
    if getattr(index, "_kind", None) not in manifest.KINDS:
        raise TypeError(f"index: expected one of {', '.join(manifest.KINDS)}, got {type(index).__name__}")
    if not isinstance(index, FlatIndex):
        training_rows.learn(index, blocks.of(X, client))
    return index
