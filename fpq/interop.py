"""Quantizers and indexes from and to other libraries: faiss (an optional dependency) and nanopq."""

from __future__ import annotations

from typing import Any

import numpy as np

from fpq import _checks, _native, threads
from fpq._arrays import GrowingArray
from fpq._checks import Float32, Int32, Int64, UInt8
from fpq.indexes import IVFPQIndex, PQIndex
from fpq.indexes.parts.coarse import CoarseQuantizer
from fpq.indexes.pq import BLOCK_ROWS
from fpq.learning import rotation as rotations
from fpq.metric import INNER_PRODUCT, L2

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
    centroids = _float32("codebooks", codebooks)
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
    index = PQIndex(
        m, nbits, metric=metric, rotation=None if rotation is None else "opq",
        rotation_dim=None if dim == m * dsub else m * dsub,
    )  # fmt: skip
    index.quantizer._learned(
        dim=dim, codebooks=centroids, code_counts=np.zeros((m, k), np.int64), inertia=float("nan"), n_iter_run=0,
        rotation=rotation,
    )  # fmt: skip
    return index


def _float32(name: str, x: Any) -> Float32:
    """Numbers of any shape, copied; those beyond float32 become infinite."""
    with np.errstate(over="ignore"):
        return np.array(_checks.numbers(name, x), dtype=np.float32, order="C")


def _rotation(matrix: Any, width: int) -> rotations.Rotation:
    r = _float32("rotation_matrix", matrix)
    if r.ndim != 2 or r.shape[1] != width or r.shape[0] < width:
        raise ValueError(f"rotation_matrix: expected shape (d, {width}) with d at least {width}, got {r.shape}")
    if not np.isfinite(r).all() or np.abs(r.T @ r - np.eye(width)).max() > ORTHONORMAL:
        raise ValueError("rotation_matrix: expected orthonormal columns")
    return rotations.Rotation(r, np.zeros(len(r), np.float32))


def from_faiss(index: Any) -> PQIndex | IVFPQIndex:
    """An index that answers like a faiss index.

    Parameters
    ----------
    index : faiss.IndexPQ or faiss.IndexIVFPQ, alone or in a faiss.IndexPreTransform with a linear transform
        METRIC_L2 or METRIC_INNER_PRODUCT, 1 to 8 bits. The coarse quantizer of an IndexIVFPQ is a faiss.IndexFlat of
        the same metric. Nothing in it is shared or changed.

    Returns
    -------
    PQIndex or IVFPQIndex
        With the same codebooks, lists, codes and ids, and float32 distances that differ by rounding only. What faiss
        does not store (inertia, code_counts, the mean of the rotation) is NaN or zero. Vectors that are added later go
        to the list with the nearest centroid in L2, where faiss goes by the inner product if that is the metric.

    Raises
    ------
    TypeError
        If the index is of another class.
    ValueError
        If it holds what fpq cannot express: a transform with a bias or without orthonormal columns, other metrics,
        other coarse quantizers, polysemous or symmetric search, more than 8 bits, ids that are negative or come twice.
    """
    faiss = _faiss()
    part = faiss.downcast_index(index)  # `index` owns it
    matrix = None
    if isinstance(part, faiss.IndexPreTransform):
        if part.chain.size() != 1:
            raise ValueError(f"index: expected one transform, got a chain of {part.chain.size()}")
        matrix = _from_transform(faiss, faiss.downcast_VectorTransform(part.chain.at(0)))
        part = faiss.downcast_index(part.index)
    in_lists = type(part) is faiss.IndexIVFPQ
    if not in_lists and not isinstance(part, faiss.IndexPQ):
        raise TypeError(
            "index: expected a faiss IndexPQ or IndexIVFPQ, alone or behind a linear transform, "
            f"got {type(part).__name__}"
        )
    metrics = {faiss.METRIC_L2: L2.name, faiss.METRIC_INNER_PRODUCT: INNER_PRODUCT.name}
    if part.metric_type not in metrics:
        raise ValueError(f"index: expected METRIC_L2 or METRIC_INNER_PRODUCT, got metric {part.metric_type}")
    if not part.is_trained:
        raise ValueError("index: expected a trained index")
    if part.pq.nbits > 8:
        raise ValueError(f"index: expected at most 8 bits a sub-code, got {part.pq.nbits}")
    codebooks = faiss.vector_to_array(part.pq.centroids).reshape(part.pq.M, part.pq.ksub, part.pq.dsub)
    made = from_codebooks(codebooks, rotation_matrix=matrix, metric=metrics[part.metric_type])
    if in_lists:
        return _from_lists(faiss, part, made)
    if part.search_type != faiss.IndexPQ.ST_PQ:
        raise ValueError(f"index: expected search_type ST_PQ, got {part.search_type}")
    put_codes(made, faiss.vector_to_array(part.codes).reshape(part.ntotal, part.pq.code_size))
    return made


def _from_lists(faiss: Any, part: Any, made: PQIndex) -> IVFPQIndex:
    """An IVFPQIndex with the lists of a faiss index and the quantizer of `made`."""
    flat, pq = faiss.downcast_index(part.quantizer), made.quantizer
    if not isinstance(flat, faiss.IndexFlat) or flat.metric_type != part.metric_type:
        raise ValueError(
            f"index: expected an IndexFlat of the index's metric as coarse quantizer, got {type(flat).__name__} of "
            f"metric {flat.metric_type}"
        )
    if part.polysemous_ht or part.max_codes:
        raise ValueError("index: expected polysemous_ht and max_codes 0: fpq scans the lists it probes as a whole")
    centroids = flat.reconstruct_n(0, part.nlist)
    if pq.rotation_matrix is not None:
        centroids = centroids @ pq.rotation_matrix.T  # the rotation takes them to where they were, in the same order
    index = IVFPQIndex(part.nlist, pq.m, pq.nbits, residual=part.by_residual, metric=made.metric)
    index.quantizer = pq
    index.n_probe = min(part.nprobe, part.nlist)
    lists = part.invlists
    sizes = np.array([lists.list_size(i) for i in range(part.nlist)], dtype=np.int64)
    ids, codes = np.empty(sizes.sum(), np.int64), np.empty((sizes.sum(), pq.code_size), np.uint8)
    for i, end in enumerate(np.cumsum(sizes)):
        if sizes[i]:
            here = slice(end - sizes[i], end)
            ids[here] = faiss.rev_swig_ptr(lists.get_ids(i), int(sizes[i]))
            codes[here] = faiss.rev_swig_ptr(lists.get_codes(i), int(sizes[i]) * pq.code_size).reshape(-1, pq.code_size)
    order = np.argsort(ids)
    labels = np.repeat(np.arange(part.nlist, dtype=np.int32), sizes)[order]
    _put_in_lists(index, np.ascontiguousarray(centroids, dtype=np.float32), labels, codes[order], ids[order])
    return index


def _put_in_lists(index: IVFPQIndex, centroids: Float32, labels: Int32, codes: UInt8, ids: Int64) -> None:
    """Make these centroids the lists and these codes, in order of id, the rows of an empty index."""
    n_threads = threads.resolve(index.n_threads)
    given = None if np.array_equal(ids, np.arange(len(ids))) else index._ids.new(ids, len(ids))
    index._coarse = CoarseQuantizer(centroids, not index._metric.euclidean, n_threads)
    index._rotated = index.quantizer.rotate(centroids, n_threads)
    vars(index).update(index._no_rows())
    slots, place, _ = index._lists.place(labels)
    index._lists.write(slots, codes, ids)
    if index.residual:
        np.maximum.at(index._radius, labels, index.quantizer.lengths(codes))
    place()
    index._ids.adding(given, len(ids))()


def put_codes(index: PQIndex, codes: UInt8) -> None:
    """Make `codes` (n, code_size) the rows of an empty index, with ids 0 to n - 1."""
    blocks = GrowingArray((index.quantizer.code_size, BLOCK_ROWS), np.uint8)
    blocks.reserve(-(-len(codes) // BLOCK_ROWS))
    _native.put_codes(np.ascontiguousarray(codes), np.arange(len(codes)), blocks.data)
    index._blocks = blocks
    index._ids.adding(None, len(codes))()


def _from_transform(faiss: Any, transform: Any) -> Float32:
    if not isinstance(transform, faiss.LinearTransform):
        raise ValueError(f"index: expected a linear transform, got {type(transform).__name__}")
    bias = faiss.vector_to_array(transform.b)
    if transform.have_bias and np.any(bias != 0):
        raise ValueError("index: expected a transform without a bias (as of faiss.OPQMatrix), PCAMatrix has one")
    matrix: Float32 = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in).T
    return matrix


def to_faiss(index: PQIndex | IVFPQIndex) -> Any:
    """A faiss index that answers like a PQIndex or an IVFPQIndex.

    Parameters
    ----------
    index : PQIndex or IVFPQIndex
        Trained; metric "l2" or "ip". Kept vectors, open_indexing and list_capacity are not part of the faiss index.

    Returns
    -------
    faiss.IndexPQ or faiss.IndexIVFPQ
        With `nprobe` as the index's n_probe. If there is a rotation, in a faiss.IndexPreTransform with a
        faiss.LinearTransform.

    Raises
    ------
    TypeError
        If the index is of another class.
    ValueError
        If faiss cannot express it: subspaces of different widths, the metric "cosine" (add and search vectors of length
        1 with "ip" instead), ids of a PQIndex that are not 0 to n - 1 (faiss.IndexIDMap would hold them), lists whose
        centroids differ in dimensions that the rotation drops, or it is not trained.
    """
    faiss = _faiss()
    if not isinstance(index, (PQIndex, IVFPQIndex)):
        raise TypeError(f"index: expected a PQIndex or an IVFPQIndex, got {type(index).__name__}")
    index._require_trained()
    if index._metric.unit_length:
        raise ValueError("index: faiss has no cosine similarity; use metric 'ip' with vectors of length 1")
    pq = index.quantizer
    if pq.offsets[-1] % pq.m:
        raise ValueError(
            f"index: faiss needs subspaces of one width, {pq.offsets[-1]} dimensions are not divisible by {pq.m}"
        )
    with index._reading():
        made = _to_codes(faiss, index) if isinstance(index, PQIndex) else _to_lists(faiss, index)
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


def _metric(faiss: Any, index: PQIndex | IVFPQIndex) -> Any:
    return faiss.METRIC_INNER_PRODUCT if index._metric.inner_product else faiss.METRIC_L2


def _to_codes(faiss: Any, index: PQIndex) -> Any:
    """A faiss.IndexPQ of the rotated vectors."""
    pq, ids, codes = index.quantizer, index.ids, index.codes
    order = np.argsort(ids)
    if not np.array_equal(ids[order], np.arange(len(ids))):
        raise ValueError("index: faiss numbers vectors 0 to n - 1, this index has other ids")
    made = faiss.IndexPQ(int(pq.offsets[-1]), pq.m, pq.nbits, _metric(faiss, index))
    faiss.copy_array_to_vector(pq.codebooks.reshape(-1), made.pq.centroids)
    faiss.copy_array_to_vector(codes[order].reshape(-1), made.codes)
    made.ntotal = len(ids)
    made.is_trained = True
    return made


def _to_lists(faiss: Any, index: IVFPQIndex) -> Any:
    """A faiss.IndexIVFPQ of the rotated vectors."""
    pq, centroids, width = index.quantizer, index.centroids, int(index.quantizer.offsets[-1])
    assert centroids is not None
    if pq.rotation_matrix is not None:
        rotated = centroids @ pq.rotation_matrix
        dropped = centroids - rotated @ pq.rotation_matrix.T
        if np.abs(dropped - dropped[0]).max() > ORTHONORMAL * np.abs(centroids).max():
            raise ValueError("index: faiss finds lists by rotated centroids, these differ in what the rotation drops")
        centroids = rotated
    coarse = faiss.IndexFlat(width, _metric(faiss, index))
    coarse.add(centroids)
    made = faiss.IndexIVFPQ(coarse, width, index.n_lists, pq.m, pq.nbits, _metric(faiss, index))
    faiss.copy_array_to_vector(pq.codebooks.reshape(-1), made.pq.centroids)
    made.by_residual = index.residual
    made.is_trained = True
    if index.residual:
        made.precompute_table()
    start = 0
    ids, codes = index._lists.in_order()
    for i, size in enumerate(index.list_sizes.tolist()):
        here = slice(start, start + size)
        if size:
            made.invlists.add_entries(i, size, faiss.swig_ptr(ids[here]), faiss.swig_ptr(codes[here]))
        start = here.stop
    made.ntotal = len(ids)
    made.nprobe = index.n_probe
    return made


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("fpq.interop needs faiss: pip install faiss-cpu") from error
    return faiss
