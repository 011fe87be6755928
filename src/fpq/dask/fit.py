"""Training from rows that exceed the memory of one machine."""

from __future__ import annotations

from typing import Any

from fpq.dask import blocks
from fpq.indexes import FlatIndex
from fpq.learning import training_rows
from fpq.sharding import manifest


def fit(index: Any, X: Any, *, client: Any = None) -> Any:
    """Train an index from a sample of rows, on the workers of a cluster or in this process.

    The sample is that of ``index.fit`` on all rows. The trained index therefore has the same bits as after
    ``index.fit(X)``, for any number of workers and any block sizes. The number of rows of an iterable is not known in
    advance: if it exceeds the training size of `fit`, another sample is drawn, by the seed of the index and independent
    of the block sizes. Only the sample is checked for NaN and infinity.

    On a cluster the sample stays with the workers. In each iteration of k-means (for the centroids of the lists, then
    for the codebooks of all subquantizers at once), the workers assign and sum their rows (map). This process receives
    the sums, up to 16 MB or two tables of all centroids, and computes the means (reduce): the PKMeans of the FPQ paper.
    Iterations over few rows or with many centroids have fewer tasks than a large cluster has threads. The centroids of
    8,192 lists and more are learned level by level: workers exchange their rows by cells, then by lists, and each
    learns the centroids of some cells. For rotations, workers sum products of their rows. The other options of indexes
    of codes are learned in the same ways. With `list_capacity` and `open_indexing`, the workers choose lists and codes
    for their rows one after the other. The samples of LSH indexes go to this process.

    Parameters
    ----------
    index : PQIndex, IVFPQIndex, E2LSHIndex, C2LSHIndex, PMLSHIndex or FlatIndex (which needs no training)
        Without vectors.
    X : Dask array (n, d), memory-mapped or other array (n, d), or iterable of arrays
        The memory is that of the sample (twice on a cluster) and of some blocks at a time.
    client : dask.distributed.Client, optional
        As in `build`.

    Returns
    -------
    index
        The argument.

    Raises
    ------
    ValueError, TypeError
        As ``index.fit``; an error in a block names the partition. The index is then unchanged.
    ConnectionError
        If the connection to the scheduler is lost.

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
