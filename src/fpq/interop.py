"""Conversion of quantizers and indexes from and to other libraries: faiss (an optional dependency) and nanopq."""

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
from fpq.metric import INNER_PRODUCT, L2, MetricName

ORTHONORMAL = 1e-3  # tolerance of the entries of R^T R - I

__all__ = ["from_codebooks", "from_faiss", "to_faiss"]


def from_codebooks(codebooks: Any, *, rotation_matrix: Any = None, metric: MetricName = "l2") -> PQIndex:
    """Make a trained, empty index with given codebooks, such as ``nanopq.PQ.codewords``.

    Parameters
    ----------
    codebooks : float array (m, 2**nbits, dsub)
        nbits from 1 to 8. Codeword i keeps its number, so codes of other libraries remain valid.
    rotation_matrix : float array (d, m * dsub), optional
        With orthonormal columns; a vector x is encoded as x R, as with ``nanopq.OPQ.R``.
    metric : {"l2", "ip", "cosine"}, default "l2"

    Returns
    -------
    PQIndex

    Raises
    ------
    ValueError
        If an array has another shape or is not finite, or the columns of the rotation are not orthonormal.

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
        raise ValueError(f"codebooks: expected 2, 4, ... 256 codewords per subquantizer, got {k}")
    rotation, dim = None, m * dsub
    if rotation_matrix is not None:
        rotation = _rotation(rotation_matrix, m * dsub)
        dim = len(rotation.matrix)
    index = PQIndex(
        m, nbits=nbits, metric=metric, rotation=None if rotation is None else "opq",
        rotation_dim=None if dim == m * dsub else m * dsub, anisotropy=1,
    )  # fmt: skip
    index.quantizer._learned(
        dim=dim, codebooks=centroids, code_counts=np.zeros((m, k), np.int64), inertia=float("nan"), n_iter_run=0,
        rotation=rotation,
    )  # fmt: skip
    return index


def _float32(name: str, x: Any) -> Float32:
    """A float32 copy of numbers of any shape; numbers beyond float32 become infinite."""
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
    """Convert a faiss index to an index with the same search results.

    Parameters
    ----------
    index : faiss.IndexPQ or faiss.IndexIVFPQ, alone or in a faiss.IndexPreTransform with a linear transform
        METRIC_L2 or METRIC_INNER_PRODUCT, 1 to 8 bits. The coarse quantizer of an IndexIVFPQ must be a faiss.IndexFlat
        of the same metric. The arrays of the index are copied.

    Returns
    -------
    PQIndex or IVFPQIndex
        With the same codebooks, inverted lists, codes and ids. Float32 distances differ by rounding only. Values that
        faiss does not store (inertia, code_counts, the mean of the rotation) are NaN or zero. Vectors that are added
        later go to the list with the nearest centroid in L2; faiss uses the inner product if that is its metric.

    Raises
    ------
    TypeError
        If the index is of another class.
    ValueError
        If fpq cannot express the index: a transform with a bias or without orthonormal columns, another metric or
        coarse quantizer, polysemous or symmetric search, more than 8 bits, negative or repeated ids.
    """
    faiss = _faiss()
    part = faiss.downcast_index(index)  # `index` remains the owner
    matrix = None
    if isinstance(part, faiss.IndexPreTransform):
        if part.chain.size() != 1:
            raise ValueError(f"index: expected one transform, got a chain of {part.chain.size()}")
        matrix = _from_transform(faiss, faiss.downcast_VectorTransform(part.chain.at(0)))
        part = faiss.downcast_index(part.index)
    in_lists = type(part) is faiss.IndexIVFPQ
    if not in_lists and not isinstance(part, faiss.IndexPQ):
        raise TypeError(
            "index: expected a faiss IndexPQ or IndexIVFPQ, alone or after a linear transform, "
            f"got {type(part).__name__}"
        )
    metrics = {faiss.METRIC_L2: L2.name, faiss.METRIC_INNER_PRODUCT: INNER_PRODUCT.name}
    if part.metric_type not in metrics:
        raise ValueError(f"index: expected METRIC_L2 or METRIC_INNER_PRODUCT, got metric {part.metric_type}")
    if not part.is_trained:
        raise ValueError("index: expected a trained index, got an untrained one")
    if part.pq.nbits > 8:
        raise ValueError(f"index: expected at most 8 bits per subquantizer, got {part.pq.nbits}")
    codebooks = faiss.vector_to_array(part.pq.centroids).reshape(part.pq.M, part.pq.ksub, part.pq.dsub)
    converted = from_codebooks(codebooks, rotation_matrix=matrix, metric=metrics[part.metric_type])
    if in_lists:
        return _from_lists(faiss, part, converted)
    if part.search_type != faiss.IndexPQ.ST_PQ:
        raise ValueError(f"index: expected search_type ST_PQ, got {part.search_type}")
    put_codes(converted, faiss.vector_to_array(part.codes).reshape(part.ntotal, part.pq.code_size))
    return converted


def _from_lists(faiss: Any, part: Any, converted: PQIndex) -> IVFPQIndex:
    """An IVFPQIndex with the lists of a faiss index and the quantizer of `converted`."""
    flat, pq = faiss.downcast_index(part.quantizer), converted.quantizer
    if not isinstance(flat, faiss.IndexFlat) or flat.metric_type != part.metric_type:
        raise ValueError(
            "index: expected an IndexFlat of the same metric as coarse quantizer, "
            f"got {type(flat).__name__} of metric {flat.metric_type}"
        )
    if part.polysemous_ht or part.max_codes:
        raise ValueError(
            "index: expected polysemous_ht 0 and max_codes 0, as fpq scans probed lists as a whole, "
            f"got {part.polysemous_ht} and {part.max_codes}"
        )
    centroids = flat.reconstruct_n(0, part.nlist)
    if pq.rotation_matrix is not None:
        centroids = centroids @ pq.rotation_matrix.T  # `_put_in_lists` rotates them back
    index = IVFPQIndex(
        part.nlist, pq.m, nbits=pq.nbits, residual=part.by_residual, metric=converted.metric, anisotropy=1
    )
    index.quantizer = pq
    index.n_probe = min(part.nprobe, part.nlist)
    lists = part.invlists
    sizes = np.array([lists.list_size(i) for i in range(part.nlist)], dtype=np.int64)
    ids, codes = np.empty(sizes.sum(), np.int64), np.empty((sizes.sum(), pq.code_size), np.uint8)
    for i, end in enumerate(np.cumsum(sizes)):
        if sizes[i]:
            rows = slice(end - sizes[i], end)
            ids[rows] = faiss.rev_swig_ptr(lists.get_ids(i), int(sizes[i]))
            codes[rows] = faiss.rev_swig_ptr(lists.get_codes(i), int(sizes[i]) * pq.code_size).reshape(-1, pq.code_size)
    order = np.argsort(ids)
    labels = np.repeat(np.arange(part.nlist, dtype=np.int32), sizes)[order]
    _put_in_lists(index, np.ascontiguousarray(centroids, dtype=np.float32), labels, codes[order], ids[order])
    return index


def _put_in_lists(index: IVFPQIndex, centroids: Float32, labels: Int32, codes: UInt8, ids: Int64) -> None:
    """Set the lists of an empty index to `centroids`, and its rows to `codes`, which are in the order of `ids`."""
    n_threads = threads.resolve(index.n_threads)
    given = None if np.array_equal(ids, np.arange(len(ids))) else index._ids.new(ids, len(ids))
    index._coarse = CoarseQuantizer(centroids, not index._metric.euclidean, n_threads)
    index._rotated = index.quantizer.rotate(centroids, n_threads)
    vars(index).update(index._no_rows())
    slots, place, _ = index._lists.place(labels, ids)
    index._lists.write(slots, codes, ids)
    if index.residual:
        np.maximum.at(index._max_residual, labels, index.quantizer.lengths(codes, n_threads))
    place()
    index._ids.adding(given, len(ids))()


def put_codes(index: PQIndex, codes: UInt8) -> None:
    """Set the rows of an empty index to `codes` (n, code_size), with ids 0 to n - 1."""
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
        raise ValueError(
            f"index: expected a transform without a bias, such as OPQMatrix, got {type(transform).__name__}"
        )
    matrix: Float32 = faiss.vector_to_array(transform.A).reshape(transform.d_out, transform.d_in).T
    return matrix


def to_faiss(index: PQIndex | IVFPQIndex) -> Any:
    """Convert a PQIndex or an IVFPQIndex to a faiss index with the same search results.

    Lists of the metric "ip" are the exception: faiss probes by the products of the query with the centroids, fpq by the
    spreads of the lists too. From the same lists (`search_preassigned`, or all lists) the results are the same.

    Parameters
    ----------
    index : PQIndex or IVFPQIndex
        Trained, with metric "l2" or "ip". Kept vectors, open_indexing and list_capacity are not converted.

    Returns
    -------
    faiss.IndexPQ or faiss.IndexIVFPQ
        With the index's n_probe as `nprobe`. An index with a rotation becomes a faiss.IndexPreTransform with a
        faiss.LinearTransform.

    Raises
    ------
    TypeError
        If the index is of another class.
    ValueError
        If the index is not trained, or faiss cannot express it: subspaces of different widths, the metric "cosine" (use
        vectors of length 1 with "ip" instead), `local_rotations`, ids of a PQIndex other than 0 to n - 1
        (faiss.IndexIDMap would store them), lists whose centroids differ in dimensions that the rotation drops.
    """
    faiss = _faiss()
    if not isinstance(index, (PQIndex, IVFPQIndex)):
        raise TypeError(f"index: expected a PQIndex or an IVFPQIndex, got {type(index).__name__}")
    index._require_trained()
    if index._metric.unit_length:
        raise ValueError("index: expected metric 'l2' or 'ip' (with vectors of length 1), got 'cosine'")
    if getattr(index, "local_rotations", False):
        raise ValueError("index: expected no rotations per list, which faiss does not know, got local_rotations=True")
    pq = index.quantizer
    if pq.offsets[-1] % pq.m:
        raise ValueError(
            f"index: expected subspaces of one width, got {pq.offsets[-1]} dimensions, not divisible by {pq.m}"
        )
    with index._reading():
        converted = _to_codes(faiss, index) if isinstance(index, PQIndex) else _to_lists(faiss, index)
    if pq.rotation_matrix is None:
        return converted
    matrix = pq.rotation_matrix
    transform = faiss.LinearTransform(len(matrix), matrix.shape[1], False)
    faiss.copy_array_to_vector(np.ascontiguousarray(matrix.T).reshape(-1), transform.A)
    transform.is_trained = True
    combined = faiss.IndexPreTransform(transform, converted)
    combined.own_fields = False  # the Python objects are the owners, and `referenced_objects` keeps them alive
    combined.referenced_objects = [transform, converted]
    return combined


def _metric(faiss: Any, index: PQIndex | IVFPQIndex) -> Any:
    return faiss.METRIC_INNER_PRODUCT if index._metric.inner_product else faiss.METRIC_L2


def _to_codes(faiss: Any, index: PQIndex) -> Any:
    """A faiss.IndexPQ of the rotated vectors."""
    pq, ids, codes = index.quantizer, index.ids, index.codes
    order = np.argsort(ids)
    if not np.array_equal(ids[order], np.arange(len(ids))):
        raise ValueError("index: expected ids 0 to n - 1, the only ids of faiss, got other ids")
    converted = faiss.IndexPQ(int(pq.offsets[-1]), pq.m, pq.nbits, _metric(faiss, index))
    faiss.copy_array_to_vector(pq.codebooks.reshape(-1), converted.pq.centroids)
    faiss.copy_array_to_vector(codes[order].reshape(-1), converted.codes)
    converted.ntotal = len(ids)
    converted.is_trained = True
    return converted


def _to_lists(faiss: Any, index: IVFPQIndex) -> Any:
    """A faiss.IndexIVFPQ of the rotated vectors."""
    pq, centroids, width = index.quantizer, index.centroids, int(index.quantizer.offsets[-1])
    assert centroids is not None
    if pq.rotation_matrix is not None:
        rotated = centroids @ pq.rotation_matrix
        dropped = centroids - rotated @ pq.rotation_matrix.T
        if np.abs(dropped - dropped[0]).max() > ORTHONORMAL * np.abs(centroids).max():
            raise ValueError("index: expected centroids that differ only within the rotated dimensions")
        centroids = rotated
    coarse = faiss.IndexFlat(width, _metric(faiss, index))
    coarse.add(centroids)
    converted = faiss.IndexIVFPQ(coarse, width, index.n_lists, pq.m, pq.nbits, _metric(faiss, index))
    faiss.copy_array_to_vector(pq.codebooks.reshape(-1), converted.pq.centroids)
    converted.by_residual = index.residual
    converted.is_trained = True
    if index.residual:
        converted.precompute_table()
    start = 0
    ids, codes = index._lists.in_order()
    for i, size in enumerate(index.list_sizes.tolist()):
        rows = slice(start, start + size)
        if size:
            converted.invlists.add_entries(i, size, faiss.swig_ptr(ids[rows]), faiss.swig_ptr(codes[rows]))
        start = rows.stop
    converted.ntotal = len(ids)
    converted.nprobe = index.n_probe
    return converted


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("fpq.interop needs faiss: pip install faiss-cpu") from error
    return faiss
