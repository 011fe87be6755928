"""`estimate`: the bytes in memory and on disk, the peak memory and the time of an index that is to be built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fpq import _bfloat16, _checks, _format, _native, building
from fpq._checks import Array
from fpq.building import AnyIndex, AnyLSHIndex
from fpq.indexes import C2LSHIndex, E2LSHIndex, FlatIndex, IVFPQIndex, PMLSHIndex, PQIndex
from fpq.indexes.parts.lists import BLOCK_ROWS
from fpq.indexes.parts.refinement import BITS, FILE_PREFIX, forms_of, n_blocks
from fpq.indexes.parts.sketches import sketch_size
from fpq.indexes.parts.tables import MAX_ROWS, directory_bits
from fpq.indexes.parts.two_level import LEAST_LISTS
from fpq.indexes.parts.vectors import is_narrow, kept_type
from fpq.learning.defaults import default_lists
from fpq.learning.levels import LEVELS
from fpq.metric import METRICS

KINDS = (FlatIndex, PQIndex, IVFPQIndex, E2LSHIndex, C2LSHIndex, PMLSHIndex)
MOST_SMALL = 1 << 14  # lists for which the centroids may be packed once more (csrc/exact/small.c)
SPREAD = 0.4  # standard deviation of the lengths of lists, in multiples of the mean: 0.39 to 0.43 on SIFT and GloVe
UNCOUNTED = ("hash_", "sketch_")  # arrays of an LSH index that its `nbytes` leaves out


@dataclass(frozen=True, repr=False)
class Estimate:
    """What an index takes, before it is built. `print` shows all of it.

    Attributes
    ----------
    nbytes : int
        `nbytes` of the index with all vectors.
    file_nbytes : int
        Size of the file that `save` writes.
    peak_nbytes : int
        Largest memory of `fit` and `add` together, index included, without the memory of X.
    build_seconds : float
        Seconds of `fit` and `add` on this machine.
    ratio : float
        `nbytes` relative to the bytes of the vectors as float32.
    """

    nbytes: int
    file_nbytes: int
    peak_nbytes: int
    build_seconds: float
    ratio: float

    def __repr__(self) -> str:
        return (
            f"Estimate(memory {readable_bytes(self.nbytes)} ({self.ratio:.3g} x float32 vectors), "
            f"file {readable_bytes(self.file_nbytes)}, peak {readable_bytes(self.peak_nbytes)}, "
            f"build {readable_seconds(self.build_seconds)})"
        )


def readable_bytes(nbytes: int) -> str:
    """A number of bytes in the unit that suits it, with three digits."""
    for power, unit in ((4, "TB"), (3, "GB"), (2, "MB"), (1, "kB")):
        if nbytes >= 999.5 * 1000 ** (power - 1):
            return f"{_digits(nbytes / 1000**power, 3)} {unit}"
    return f"{nbytes} bytes"


def readable_seconds(seconds: float) -> str:
    """Seconds in the unit that suits them, with two digits."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{_digits(seconds / size, 2)} {unit}"
    return f"{_digits(seconds, 2)} s"


def _digits(number: float, digits: int) -> str:
    """A number with this many digits, without an exponent."""
    rounded = float(f"{number:.{digits}g}")
    decimals = digits - 1 - math.floor(math.log10(rounded)) if rounded else 0
    return f"{rounded:.{max(0, decimals)}f}"


def estimate(n: int, d: int, index: AnyIndex, *, dtype: DTypeLike = np.float32, ids: bool = False) -> Estimate:
    """What it takes to build an index of n vectors: memory, disk and time.

    The estimate is for one `fit` and one `add` of all vectors from an array in memory. It follows from the options of
    the index, without vectors. The time follows from a model of the work, and from the pace of this machine, which the
    first call measures in less than 0.1 seconds.

    Parameters
    ----------
    n : int
        Number of vectors.
    d : int
        Number of dimensions.
    index : FlatIndex, PQIndex, IVFPQIndex, E2LSHIndex, C2LSHIndex or PMLSHIndex
        Only the options are read. The index is not changed, and vectors in the index do not count.
    dtype : dtype, default float32
        The element type of the vectors to be added. It matters for the vectors that the index keeps.
    ids : bool, default False
        Whether `add` is to get ids.

    Returns
    -------
    Estimate
        The bytes in memory and on disk are mostly within 3 %. `docs/choosing.md` has the errors of the peak and of the
        time.

    Raises
    ------
    TypeError
        If `index` is not an index of the kinds above, or another argument is not as described.
    ValueError
        If n or d are not as described, or `fit` would refuse vectors of this shape.

    Examples
    --------
    >>> import fpq
    >>> found = fpq.estimate(1_000_000, 128, fpq.IVFPQIndex(1500, m=25, keep_vectors=True), dtype="uint8")
    >>> round(found.ratio, 2)
    0.31
    >>> found.nbytes < found.peak_nbytes
    True
    """
    n, d = _checks.integer("n", n, 1), _checks.integer("d", d, 1)
    if not isinstance(index, KINDS):
        names = ", ".join(kind.__name__ for kind in KINDS)
        got = f"the class {index.__name__}" if isinstance(index, type) else f"a {type(index).__name__}"
        raise TypeError(f"index: expected an index of one of the kinds {names}, got {got}")
    given = element_type(dtype)
    if not isinstance(ids, (bool, np.bool_)):
        raise TypeError(f"ids: expected True or False, got {ids!r}")
    _require_fit(index, n, d)
    arrays = stored_arrays(index, n, d, given, ids=bool(ids))
    nbytes = memory_nbytes(index, n, d, arrays)
    return Estimate(
        nbytes=nbytes,
        file_nbytes=_file_nbytes(index, arrays),
        peak_nbytes=building.peak_nbytes(index, n, d, given, nbytes),
        build_seconds=building.seconds(index, n, d, given),
        ratio=nbytes / (4 * n * d),
    )


def element_type(dtype: DTypeLike) -> np.dtype[Any]:
    """The element type of vectors to be added, checked."""
    try:
        given = _bfloat16.of(dtype)
    except TypeError:
        raise TypeError(f"dtype: expected a type of real numbers, got {dtype!r}") from None
    if given.kind not in "fiub" and not is_narrow(given):
        raise TypeError(f"dtype: expected a type of real numbers, got {given}")
    return given


def _require_fit(index: AnyIndex, n: int, d: int) -> None:
    """Raise the errors of `fit` and `add` that depend on the shape of the vectors only."""
    if isinstance(index, (PQIndex, IVFPQIndex)):
        index.quantizer.check_dim(d)
        index._require_file_fits(d)
    if isinstance(index, IVFPQIndex) and index.n_lists is not None and n < index.n_lists:
        raise ValueError(f"n: expected at least one vector for each of the {index.n_lists} lists, got {n}")
    if isinstance(index, AnyLSHIndex) and n > MAX_ROWS:
        raise ValueError(f"n: expected at most {MAX_ROWS} vectors, got {n}")


def estimated_nbytes(index: AnyIndex, n: int, d: int, dtype: np.dtype[Any]) -> int:
    """The `nbytes` of an index after `fit`, and one `add` of n vectors of d numbers of this type without ids."""
    return memory_nbytes(index, n, d, stored_arrays(index, n, d, dtype, ids=False))


def stored_arrays(index: AnyIndex, n: int, d: int, dtype: np.dtype[Any], *, ids: bool) -> dict[str, Array]:
    """The arrays of the file of an index with n vectors, by name: views of one number, without memory."""
    arrays = {"ids": _view(np.int64, n)} if ids else {}
    if not isinstance(index, (PQIndex, IVFPQIndex)) or index.keep_vectors is True:
        kept = kept_type(dtype, unit_length=METRICS[index.metric].unit_length)
        arrays["vectors"] = _bfloat16.as_bits(_view(kept, n, d))
    if isinstance(index, FlatIndex):
        return {**arrays, "norms": _view(np.float32, n)}
    if isinstance(index, (PQIndex, IVFPQIndex)):
        return {**arrays, **_code_arrays(index, n, d)}
    return {**arrays, **_lsh_arrays(index, n, d)}


def _view(dtype: DTypeLike, *shape: int) -> Array:
    return np.broadcast_to(np.zeros((), dtype), shape)


def _code_arrays(index: PQIndex | IVFPQIndex, n: int, d: int) -> dict[str, Array]:
    pq, f4 = index.quantizer, np.float32
    m, k, width = building.codebook_sizes(index, d)
    arrays = {"codebooks": _view(f4, m, k, -(-width // m)), "code_counts": _view(np.int64, m, k)}
    if pq.rotation is not None:
        arrays |= {"rotation_matrix": _view(f4, d, width), "rotation_mean": _view(f4, d)}
    if pq.open_indexing is not None:
        arrays["open_indexing_counts"] = _view(np.int64, *pq.open_indexing.new_counts(m, k).shape)
    blocks = n_blocks(n)
    if isinstance(index, IVFPQIndex):
        n_lists = index.n_lists or default_lists(n)
        blocks = _blocks(n, n_lists, index.list_capacity)
        arrays |= {"centroids": _view(f4, n_lists, d), "radii": _view(f4, n_lists)}
        arrays |= {"spreads": _view(f4, n_lists)} if METRICS[index.metric].inner_product else {}
        arrays |= {"list_sizes": _view(np.int64, n_lists), "chain": _view(np.int32, blocks)}
        arrays["slot_ids"] = _view(np.int32 if n <= 1 << 31 else np.int64, blocks, BLOCK_ROWS)
        arrays |= {"local_rotations": _view(f4, n_lists, d, width)} if index.local_rotations else {}
    arrays["codes"] = _view(np.uint8, blocks, (m * pq.nbits + 7) // 8, BLOCK_ROWS)
    if index.refine is not None:
        forms = forms_of(width, BITS[index.refine], index.refine == "sq4")
        arrays |= {
            FILE_PREFIX + name: _view(dtype, n_blocks(n), BLOCK_ROWS, *shape) for name, (shape, dtype) in forms.items()
        }
        arrays |= {"refine_steps": _view(f4, width), "refine_centre": _view(f4, width)}
        arrays |= {"refine_trellis": _view(np.uint8, LEVELS)} if index.refine == "sq4" else {}
    return arrays


def _lsh_arrays(index: AnyLSHIndex, n: int, d: int) -> dict[str, Array]:
    f4, size = np.float32, sketch_size(d)
    n_tables, columns = building.hash_functions(index, n, d)
    arrays: dict[str, Array] = {}
    if isinstance(index, E2LSHIndex):
        arrays |= {"entries": _view(np.uint64, n_tables, n)}
        arrays |= {"starts": _view(np.uint32, n_tables, (1 << directory_bits(n)) + 1)}
        arrays |= {"table_sketches": _view(np.uint8, n_tables, n, size)} if size else {}
    else:
        codes = index._no_blocks().data
        arrays |= {"codes": _view(codes.dtype, -(-n // BLOCK_ROWS), *codes.shape[1:])}
        arrays |= {"sketches": _view(np.uint8, n, size)} if size else {}
    arrays |= {"hash_centre": _view(f4, d), "hash_directions": _view(f4, columns, d)}
    arrays |= {"hash_shifts": _view(f4, columns), "hash_mixers": _view(np.uint64, columns)}
    if size:
        arrays |= {"sketch_centre": _view(f4, d), "sketch_directions": _view(f4, size - 1, d)}
        arrays |= {"sketch_least": _view(f4, size)}
    return arrays


def memory_nbytes(index: AnyIndex, n: int, d: int, arrays: Mapping[str, Array]) -> int:
    """The `nbytes` of an index whose file has these arrays."""
    total = sum(array.nbytes for name, array in arrays.items() if not name.startswith(UNCOUNTED))
    if not isinstance(index, (PQIndex, IVFPQIndex)):
        return total
    m, k, width = building.codebook_sizes(index, d)
    total += 4 * m * _native.packed_size(k, -(-width // m))
    total += 0 if index.quantizer.rotation is None else 4 * d * width  # packed once more
    if isinstance(index, IVFPQIndex):
        n_lists, blocks = len(arrays["list_sizes"]), len(arrays["chain"])
        total += 8 * blocks + 8 * (n_lists + 1) + 4 * n_lists * ((d if index.local_rotations else width) + 1)
        if index.local_rotations:  # packed only
            total += 4 * n_lists * (_native.packed_size(width, d) - width * d)
        by_product = METRICS[index.metric].inner_product
        total += _packed_centroids(n_lists, d + by_product, by_product) + 4 * n_lists * (d + 1) * by_product
    return total


def _file_nbytes(index: AnyIndex, arrays: Mapping[str, Array]) -> int:
    with index._reading():
        params = index._state().params
    header = _format.header(type(index).__name__, params, dict(arrays), dict.fromkeys(arrays, _format.BLANK))
    return len(header) + sum(array.nbytes for array in arrays.values())


def _blocks(n: int, n_lists: int, capacity: float | None) -> int:
    """The expected number of blocks of all lists; the last block of a list is half empty on average."""
    shape = SPREAD**-2
    lengths = np.random.default_rng(0).gamma(shape, n / n_lists / shape, 4096)
    lengths *= n / n_lists / lengths.mean()
    if capacity is not None:
        lengths = np.minimum(lengths, math.ceil(capacity * n / n_lists))
        lengths *= n / n_lists / lengths.mean()
    return round(float(np.ceil(np.round(lengths) / BLOCK_ROWS).mean()) * n_lists)


def _packed_centroids(n_lists: int, d: int, inner_product: bool) -> int:
    """Bytes of what finds the nearest lists, beside the centroids."""
    packed = 0
    if n_lists <= MOST_SMALL:  # depends on the instruction set
        packed = _native.SmallFlat(np.zeros((n_lists, d), np.float32), inner_product).nbytes
    if n_lists < LEAST_LISTS:
        return packed
    cells = math.isqrt(n_lists)
    return packed + cells * (4 * d + 4) + 8 * math.ceil(1.5 * n_lists / cells) * cells + 8 * n_lists
