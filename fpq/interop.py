"""Quantizers and indexes from and to other libraries: faiss (an optional dependency) and nanopq."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpq import _native
from fpq import rotation as rotations
from fpq._arrays import GrowingArray
from fpq._checks import Float32, UInt8
from fpq.indexes import PQIndex
from fpq.indexes.pq import BLOCK_ROWS

ORTHONORMAL = 1e-3  # what the entries of R^T R may differ from those of the identity

__all__ = ["from_codebooks", "from_faiss", "to_faiss"]


def from_codebooks(codebooks: Any, *, rotation_matrix: Any = None, metric: str = "l2") -> PQIndex:
    """A trained, empty index with given codebooks, such as ``nanopq.PQ.codewords``.

    Parameters
    ----------
    codebooks : float array (m, 2**nbits, dsub)
        nbits 1 to 8. Codes of other libraries keep their meaning: centroid i keeps its number.
    rotation_matrix : float array (d, m * dsub), optional
        With orthonormal columns; vectors x are coded as x R. It is ``nanopq.OPQ.R``.
    metric : {"l2", "ip", "cosine"}, default "l2"

    Raises
    ------
    ValueError
        If the arrays have other shapes, are not finite, or the columns of the rotation are not orthonormal.

    Examples
    --------
    >>> import numpy as np, fpq, fpq.interop
    >>> codebooks = np.random.default_rng(0).normal(size=(4, 256, 3)).astype(np.float32)
    >>> index = fpq.interop.from_codebooks(codebooks)
    >>> index.add(np.zeros((2, 12))).search(np.zeros(12), k=2).ids.tolist()
    [0, 1]
    """
    centroids = np.array(codebooks, dtype=np.float32, order="C")
    if centroids.ndim != 3 or 0 in centroids.shape or not np.isfinite(centroids).all():
        raise ValueError(f"codebooks: expected finite numbers (m, 2**nbits, dsub), got shape {centroids.shape}")
    m, k, dsub = centroids.shape
    nbits = k.bit_length() - 1
    if k != 1 << nbits or not 1 <= nbits <= 8:
        raise ValueError(f"codebooks: expected 2, 4, ... 256 centroids a subspace, got {k}")
    rotation, dim = None, m * dsub
    if rotation_matrix is not None:
        rotation = _rotation(rotation_matrix, m * dsub)
        dim = len(rotation.matrix)
    index = PQIndex(m, nbits, metric=metric, rotation=None if rotation is None else "opq")
    if rotation is not None and dim != m * dsub:
        index.quantizer.rotation_dim = m * dsub
    index.quantizer._learned(
        dim=dim, codebooks=centroids, code_counts=np.zeros((m, k), np.int64), inertia=float("nan"), n_iter_run=0,
        rotation=rotation,
    )  # fmt: skip
    return index


def _rotation(matrix: Any, width: int) -> rotations.Rotation:
    r = np.array(matrix, dtype=np.float32, order="C")
    if r.ndim != 2 or r.shape[1] != width or r.shape[0] < width:
        raise ValueError(f"rotation_matrix: expected shape (d, {width}) with d at least {width}, got {r.shape}")
    if not np.isfinite(r).all() or np.abs(r.T @ r - np.eye(width)).max() > ORTHONORMAL:
        raise ValueError("rotation_matrix: expected orthonormal columns")
    return rotations.Rotation(r, np.zeros(len(r), np.float32))


def from_faiss(index: Any) -> PQIndex:
    """A PQIndex that answers like a faiss index.

    Parameters
    ----------
    index : faiss.IndexPQ, or faiss.IndexPreTransform of a linear transform and a faiss.IndexPQ
        METRIC_L2 or METRIC_INNER_PRODUCT, 1 to 8 bits. Nothing in it is shared or changed.

    Returns
    -------
    PQIndex
        With the same codebooks, codes and ids, and float32 distances that differ by rounding only. What faiss does not
        store (inertia, code_counts, the mean of the rotation) is NaN or zero.

    Raises
    ------
    TypeError
        If the index is of another class.
    ValueError
        If it holds what fpq cannot express: a transform with a bias or without orthonormal columns, other metrics,
        polysemous or symmetric search, more than 8 bits.
    """
    faiss = _faiss()
    part = faiss.downcast_index(index)  # `index` owns it
    matrix = None
    if isinstance(part, faiss.IndexPreTransform):
        if part.chain.size() != 1:
            raise ValueError(f"index: expected one transform, got a chain of {part.chain.size()}")
        matrix = _from_transform(faiss, faiss.downcast_VectorTransform(part.chain.at(0)))
        part = faiss.downcast_index(part.index)
    if not isinstance(part, faiss.IndexPQ):  # IndexIVFPQ: becomes an IVFPQIndex here
        raise TypeError(
            f"index: expected a faiss IndexPQ, alone or behind a linear transform, got {type(part).__name__}"
        )
    metrics = {faiss.METRIC_L2: "l2", faiss.METRIC_INNER_PRODUCT: "ip"}
    if part.metric_type not in metrics:
        raise ValueError(f"index: expected METRIC_L2 or METRIC_INNER_PRODUCT, got metric {part.metric_type}")
    if part.search_type != faiss.IndexPQ.ST_PQ:
        raise ValueError(f"index: expected search_type ST_PQ, got {part.search_type}")
    if not part.is_trained:
        raise ValueError("index: expected a trained index")
    pq = part.pq
    if pq.nbits > 8:
        raise ValueError(f"index: expected at most 8 bits a sub-code, got {pq.nbits}")
    codebooks = faiss.vector_to_array(pq.centroids).reshape(pq.M, pq.ksub, pq.dsub)
    made = from_codebooks(codebooks, rotation_matrix=matrix, metric=metrics[part.metric_type])
    put_codes(made, faiss.vector_to_array(part.codes).reshape(part.ntotal, pq.code_size))
    return made


def put_codes(index: PQIndex, codes: UInt8) -> None:
    """Make `codes` (n, code_size) the rows of an empty index, with ids 0 to n - 1."""
    blocks = GrowingArray((index.quantizer.code_size, BLOCK_ROWS), np.uint8)
    blocks.reserve(-(-len(codes) // BLOCK_ROWS))
    _native.put_codes(np.ascontiguousarray(codes), np.arange(len(codes)), blocks.data)
    index._blocks = blocks
    index._ids.append(None, len(codes))


def _from_transform(faiss: Any, transform: Any) -> Float32:
    if not isinstance(transform, faiss.LinearTransform):
        raise ValueError(f"index: expected a linear transform, got {type(transform).__name__}")
    bias = faiss.vector_to_array(transform.b)
    if transform.have_bias and np.any(bias != 0):
        raise ValueError("index: expected a transform without a bias (as of faiss.OPQMatrix), PCAMatrix has one")
    matrix: Float32 = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in).T
    return matrix


def to_faiss(index: PQIndex) -> Any:
    """A faiss index that answers like a PQIndex.

    Parameters
    ----------
    index : PQIndex
        Trained; metric "l2" or "ip". Kept vectors and open_indexing are not part of the faiss index.

    Returns
    -------
    faiss.IndexPQ
        If there is a rotation, a faiss.IndexPreTransform of a faiss.LinearTransform and an IndexPQ.

    Raises
    ------
    TypeError
        If the index is of another class.
    ValueError
        If faiss cannot express it: subspaces of different widths, the metric "cosine" (add and search vectors of length
        1 with "ip" instead), ids that are not 0 to n - 1 (faiss.IndexIDMap would hold them), or it is not trained.
    """
    faiss = _faiss()
    if not isinstance(index, PQIndex):  # IVFPQIndex: becomes an IndexIVFPQ here
        raise TypeError(f"index: expected a PQIndex, got {type(index).__name__}")
    index._require_trained()
    if index.metric == "cosine":
        raise ValueError("index: faiss has no cosine similarity; use metric 'ip' with vectors of length 1")
    pq = index.quantizer
    if pq.offsets[-1] % pq.m:
        raise ValueError(
            f"index: faiss needs subspaces of one width, {pq.offsets[-1]} dimensions are not divisible by {pq.m}"
        )
    with index._reading():
        ids, codes = index.ids, index.codes
    order = np.argsort(ids)
    if not np.array_equal(ids[order], np.arange(len(ids))):
        raise ValueError("index: faiss numbers vectors 0 to n - 1, this index has other ids")
    metric = faiss.METRIC_L2 if index.metric == "l2" else faiss.METRIC_INNER_PRODUCT
    made = faiss.IndexPQ(int(pq.offsets[-1]), pq.m, pq.nbits, metric)
    faiss.copy_array_to_vector(pq.codebooks.reshape(-1), made.pq.centroids)
    faiss.copy_array_to_vector(codes[order].reshape(-1), made.codes)
    made.ntotal = len(ids)
    made.is_trained = True
    if pq.rotation_matrix is None:
        return made
    matrix = pq.rotation_matrix
    transform = faiss.LinearTransform(len(matrix), matrix.shape[1], False)
    faiss.copy_array_to_vector(np.ascontiguousarray(matrix.T).reshape(-1), transform.A)
    transform.is_trained = True
    whole = faiss.IndexPreTransform(transform, made)
    whole.own_fields = False  # Python objects own them, and the whole keeps those
    whole.referenced_objects = [transform, made]
    return whole


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("fpq.interop needs faiss: pip install faiss-cpu") from error
    return faiss
