"""Product quantization: codebooks, codes, and look-up tables of distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, progress, scaling, threads
from fpq._arrays import aligned_empty, pack_codebooks
from fpq._checks import Array, Float32, Int32, Int64, UInt8
from fpq.learning import anisotropic, quantizer_file
from fpq.learning import rotation as rotations
from fpq.learning.code_groups import group_centroids
from fpq.learning.defaults import default_m
from fpq.learning.kmeans import even_offsets, random_centroids, sample_rows, spread_centroids, warn_of_few_rows
from fpq.learning.lloyd import Change, LocalRows, TrainingRows, train_codebooks
from fpq.learning.open_indexing import OpenIndexing
from fpq.metric import COSINE, L2, Metric
from fpq.progress import Progress
from fpq.storage import State, Storable, Stored

CHUNK_ROWS, MOST_SUBSPACES = 1 << 16, 1 << 20


RotationName = Literal["pca", "opq"]


class ProductQuantizer(Storable, kind="ProductQuantizer"):
    """A product quantizer: a vector is split into m sub-vectors, each coded by the nearest of 2**nbits centroids.

    FPQ paper, section II.B and Algorithms 1 and 2; Jegou, Douze, Schmid, Product Quantization for Nearest Neighbor
    Search, 2011. All subspaces are trained in parallel; the same seed gives the same bits for any number of threads.
    Constant dimensions and duplicate rows are allowed: with fewer distinct sub-vectors than centroids, some centroids
    coincide, and those with the higher numbers are never used.

    Parameters
    ----------
    m : int or None, default 16
        Number of subquantizers. The dimension need not be divisible by m: widths of subspaces differ by at most one.
        None: `fit` chooses m from the number of dimensions, an eighth of them, but at least 25 or half of them. The
        attribute is None until then.
    nbits : int, default 8
        Bits of a sub-code, 1 to 8; each codebook has 2**nbits centroids.
    rotation : None, "pca" or "opq", default None
        Rotate vectors before coding. "pca": principal directions, allocated to subspaces of balanced variance. "opq":
        optimized product quantization.
    rotation_dim : int or None, default None
        Number of dimensions after the rotation, at least m (None: all). Distances then ignore the dropped dimensions.
    open_indexing : None, float or OpenIndexing, default None
        Limit the number of rows per code; a number is ``OpenIndexing(c=number)``.
    n_iter : int, default 25
        Maximum number of Lloyd iterations, as in `KMeans`.
    init : "k-means++" or "random", default "k-means++"
        Initial centroids: rows drawn by k-means++ (lower squared error), or random rows (more centroids where vectors
        are dense, and therefore often higher recall).
    max_points_per_centroid : int, default 256
        Train on a random sample of at most this many rows per centroid.
    seed : int, default 0
        Seed of the sample and of the initial centroids.
    n_threads : int or None, default None
        Number of threads. None: all available cores, or OMP_NUM_THREADS.
    verbose : bool or function, default False
        True: show the progress of long calls. A function: call it with a `fpq.progress.Progress`. See `fpq.progress`.

    Attributes
    ----------
    dim : int
        Dimension d of the vectors.
    codebooks : float32 (m, 2**nbits, dsub)
        Centroids, after the rotation if one is used; dsub is the width of the widest subspace, narrower codewords are
        padded with zeros.
    offsets : int32 (m + 1,)
        Subspace j is dimensions ``offsets[j]`` to ``offsets[j + 1] - 1`` (after the rotation).
    code_counts : int64 (m, 2**nbits)
        Number of training rows with each code; `open_indexing`, if given, limits these numbers.
    inertia : float
        Sum over the training rows of the squared L2 distance to the nearest reconstruction, after the rotation.
    rotation_matrix : float32 (d, rotation_dim) or None

    Examples
    --------
    >>> import numpy as np, fpq
    >>> X = np.random.default_rng(0).normal(size=(1000, 10)).astype(np.float32)
    >>> pq = fpq.ProductQuantizer(m=4, nbits=6).fit(X)
    >>> codes = pq.encode(X)
    >>> codes.shape, codes.dtype       # four sub-codes of six bits
    ((1000, 3), dtype('uint8'))
    >>> bool(((pq.decode(codes) - X) ** 2).mean() < 0.3)
    True
    """

    m = _settings.Fixed(_settings.known_after_fit(_settings.at_least(1, MOST_SUBSPACES)))
    nbits = _settings.Fixed(_settings.integer(1, 8))
    rotation = _settings.Fixed(_settings.choice(None, "pca", "opq"))
    rotation_dim = _settings.Fixed[int | None](_settings.checked)
    open_indexing = _settings.Fixed[OpenIndexing | None](_settings.checked)
    n_iter = _settings.Setting(_settings.integer(1))
    init = _settings.Setting(_settings.choice("k-means++", "random"))
    max_points_per_centroid = _settings.Setting(_settings.integer(1))
    seed = _settings.Setting(_settings.seed)

    dim: int
    codebooks: Float32
    offsets: Int32
    code_counts: Int64
    inertia: float
    n_iter_run: int
    _rotation: rotations.Rotation | None
    _packed: Float32
    largest: float  # absolute value in the codebooks
    _adc: tuple[int, int, _native.ADC] | None  # the last result of `adc`, after its power and inner product

    def __init__(
        self,
        m: int | None = 16,
        *,
        nbits: int = 8,
        rotation: RotationName | None = None,
        rotation_dim: int | None = None,
        open_indexing: OpenIndexing | float | None = None,
        n_iter: int = 25,
        init: Literal["k-means++", "random"] = "k-means++",
        max_points_per_centroid: int = 256,
        seed: int = 0,
        n_threads: int | None = None,
        verbose: bool | Callable[[Progress], None] = False,
    ) -> None:
        self.m = m
        self.nbits = nbits
        self.rotation = rotation
        if rotation_dim is not None:
            rotation_dim = _checks.integer("rotation_dim", rotation_dim, self.m or 1)
            if rotation is None:
                raise ValueError(f"rotation_dim: expected None without a rotation, got {rotation_dim}")
        self.rotation_dim = rotation_dim
        self.open_indexing = OpenIndexing.of(open_indexing)
        self.n_iter = n_iter
        self.init = init
        self.max_points_per_centroid = max_points_per_centroid
        self.seed = seed
        self.n_threads = n_threads
        self.verbose = verbose

    @property
    def is_trained(self) -> bool:
        """Whether `fit` has been called."""
        return hasattr(self, "codebooks")

    @property
    def code_size(self) -> int:
        """Bytes per code: m * nbits bits, rounded up; 0 while m is None."""
        return ((self.m or 0) * self.nbits + 7) // 8

    @property
    def rotation_matrix(self) -> Float32 | None:
        """The learned rotation, float32 (d, rotation_dim) with orthonormal columns, or None."""
        return self._rotation.matrix if self.is_trained and self._rotation else None

    @property
    def nbytes(self) -> int:
        """Bytes of the learned arrays."""
        if not self.is_trained:
            return 0
        rotation = 2 * self._rotation.matrix.nbytes + self._rotation.mean.nbytes if self._rotation else 0
        return self.codebooks.nbytes + self._packed.nbytes + self.code_counts.nbytes + rotation

    def fit(self, X: ArrayLike) -> ProductQuantizer:
        """Learn the rotation and the codebooks from (a sample of) the rows of X. X is not kept.

        Parameters
        ----------
        X : array (n, d)
            At least one row; d at least m. float32, float64, float16, bfloat16, uint8 and int8 are read in place.

        Raises
        ------
        ValueError, TypeError
            If X is not a finite 2-d array of numbers, or has fewer dimensions than m or than rotation_dim. The object
            is then unchanged.

        Warns
        -----
        RuntimeWarning
            If there are fewer rows than centroids.
        """
        n_threads = threads.resolve(self.n_threads)
        x = _checks.vectors("X", X, min_rows=1, n_threads=n_threads)
        self.check_dim(x.shape[1])
        warn_of_few_rows(len(x), 1 << self.nbits)
        rng = np.random.default_rng(self.seed)
        with progress.method(self, "fit"):
            self._train(LocalRows(x, sample_rows(len(x), self.max_training_rows, rng), n_threads), rng, n_threads)
        return self

    def drawn(self, n: int) -> Int64 | None:
        """The row numbers that `fit` draws from n rows; None: all rows."""
        return sample_rows(n, self.max_training_rows, np.random.default_rng(self.seed))

    def fit_drawn(self, rows: TrainingRows, n: int) -> None:
        """Learn from `rows`, those of `drawn(n)`, with the same bits as `fit` on all n rows."""
        self.check_dim(rows.dim)
        warn_of_few_rows(rows.n, 1 << self.nbits)
        rng = np.random.default_rng(self.seed)
        sample_rows(n, self.max_training_rows, rng)  # leaves rng in the state that `fit` continues from
        self._train(rows, rng, threads.resolve(self.n_threads))

    def adapt(self, rows: TrainingRows, vectors: TrainingRows, weight: float) -> None:
        """Lower the loss of `Anisotropy` for rows, which may be residuals of the `vectors`."""
        chunk_rows = anisotropic.rows_per_step(rows.n, self.codebooks)
        make = partial(anisotropic.adapting, self.codebooks, self.offsets, self._rotation)
        prepared = rows.prepared(make, chunk_rows, vectors)
        learned = anisotropic.adapted(self.codebooks, self.offsets, prepared, weight, chunk_rows)
        self._learned(
            dim=self.dim, codebooks=learned.centroids, code_counts=learned.counts, inertia=learned.inertia,
            n_iter_run=self.n_iter_run + anisotropic.N_ITER, rotation=self._rotation,
        )  # fmt: skip

    def check_dim(self, d: int) -> None:
        """Raise ValueError if the quantizer cannot be trained on vectors of dimension `d`."""
        if self.m is not None and d < self.m:
            raise ValueError(
                f"m: expected at most the {d} dimension(s) of X, got {self.m}: m is the number of subquantizers, "
                "and the dimension comes from X"
            )
        if self.rotation_dim is not None and d < self.rotation_dim:
            raise ValueError(f"rotation_dim: expected at most the {d} dimension(s) of X, got {self.rotation_dim}")

    @property
    def max_training_rows(self) -> int:
        """The maximum number of rows that `fit` trains on."""
        return self.max_points_per_centroid << self.nbits

    def _train(self, rows: TrainingRows, rng: np.random.Generator, n_threads: int) -> None:
        k, dim, width = 1 << self.nbits, rows.dim, self.rotation_dim or rows.dim
        m = default_m(width) if self.m is None else self.m
        if m == width >= 32:
            _checks.warn(
                f"m: {m} subquantizers of {width} dimensions code each number on its own. m is not the dimension: "
                "usual are 8 to 64",
                UserWarning,
            )
        rows, power = scaling.training(rows)
        rotation = None
        if self.rotation:
            rotation = rotations.learned(self.rotation, rows, m, k, width, rng, n_threads)
            rows = rows.changed(rotation.apply, width)
        offsets = even_offsets(rows.dim, m)
        about = f"{m:,} x {k} centroids from {rows.n:,} rows"
        with progress.stage("codebooks", self.n_iter, "iterations", about) as advance:
            if self.init == "random":
                start = random_centroids(rows, offsets, k, rng)
            else:
                start = spread_centroids(rows, offsets, k, rng, n_threads)
            trained = train_codebooks(
                rows, offsets, start, n_iter=self.n_iter, rng=rng, n_threads=n_threads, advance=advance
            )
            if k == 256:
                trained = group_centroids(trained, offsets, n_threads)
            if self.open_indexing:
                choose = partial(self.open_indexing._chosen, trained.centroids, offsets, rows.n)
                chosen = rows.in_turn(choose, self.open_indexing.new_counts(m, k), trained.ids.T)
                trained = trained._replace(ids=np.concatenate(list(chosen), axis=1))
        code_counts = np.empty((m, k), np.int64)
        _native.renumber(None, trained.ids, code_counts, n_threads)
        if rotation and power:
            rotation = rotations.Rotation(rotation.matrix, scaling.scaled(rotation.mean, -power))
        self._learned(
            dim=dim,
            codebooks=scaling.scaled(trained.centroids, -power),
            code_counts=code_counts,
            inertia=math.ldexp(float(trained.errors.sum(dtype=np.float64)), -2 * power),
            n_iter_run=trained.n_iter_run,
            rotation=rotation,
        )

    def _learned(
        self, *, dim: int, codebooks: Float32, code_counts: Int64, inertia: float, n_iter_run: int,
        rotation: rotations.Rotation | None,
    ) -> None:  # fmt: skip
        """Set all learned attributes in one statement, so that an interrupt leaves either all or none changed."""
        m = len(codebooks)
        offsets = even_offsets(rotation.matrix.shape[1] if rotation else dim, m)
        largest = _native.largest(codebooks.reshape(-1, codebooks.shape[2]), 1)
        vars(self).update(
            m=m, dim=dim, offsets=offsets, codebooks=codebooks, code_counts=code_counts, inertia=inertia,
            n_iter_run=n_iter_run, _rotation=rotation, _packed=pack_codebooks(codebooks, offsets), largest=largest,
            _adc=None,
        )  # fmt: skip

    def _state(self) -> State:
        return quantizer_file.state(self)

    @classmethod
    def _from_state(cls, stored: Stored) -> ProductQuantizer:
        return quantizer_file.restored(cls, stored)

    def _require_trained(self) -> None:
        if not self.is_trained:
            raise ValueError(f"{type(self).__name__} is not trained: call fit first")

    def encode(self, X: ArrayLike) -> UInt8:
        """Codes of the rows of X, uint8 (n, code_size).

        Sub-code j takes bits ``j * nbits`` to ``(j + 1) * nbits - 1`` of a code, low bits first: with 8 bits, byte j is
        sub-code j. With `open_indexing`, the counters start at zero, and n in the limit is the number of rows of X.

        Raises
        ------
        ValueError, TypeError
            If the object is not trained, or X is not a finite 2-d array of the training dimension.
        """
        self._require_trained()
        n_threads = threads.resolve(self.n_threads)
        x = _checks.vectors("X", X, dim=self.dim, n_threads=n_threads)
        counts = self.open_indexing.new_counts(self.m, 1 << self.nbits) if self.open_indexing else None
        chunks = [codes for codes, _ in self.encode_chunks(x, counts, len(x), n_threads)]
        return np.concatenate(chunks) if chunks else np.empty((0, self.code_size), dtype=np.uint8)

    def encode_chunks(
        self, x: Array, counts: Int64 | None, n_total: int, n_threads: int, prepare: Change = lambda chunk, _: chunk,
        anisotropy: anisotropic.Anisotropy | None = None,
    ) -> Iterator[tuple[UInt8, Array]]:  # fmt: skip
        """Prepare and encode checked rows in chunks, and update the `counts` of OpenIndexing.

        Yields the codes of each chunk, and its rows after preparation and rotation. `anisotropy`: the loss that the
        codes are to lower; None: the squared error.
        """
        for start in range(0, len(x), CHUNK_ROWS):
            rows = x[start : start + CHUNK_ROWS]
            chunk = self.rotate(prepare(rows, n_threads), n_threads)
            ids = np.empty((self.m, len(chunk)), dtype=np.int32)
            _native.assign(self.codebooks, self.offsets, chunk, None, ids, None, n_threads)
            if anisotropy is not None:
                along = self._directions(anisotropy.vectors(rows, n_threads), n_threads)
                anisotropic.descend(self.codebooks, self.offsets, chunk, along, anisotropy.weight, ids, n_threads)
            if self.open_indexing and counts is not None:
                self.open_indexing.apply(self.codebooks, self.offsets, chunk, ids, counts, n_total, n_threads)
            codes = np.empty((len(chunk), self.code_size), dtype=np.uint8)
            _native.pack_codes(ids, self.nbits, codes, n_threads)
            yield codes, chunk

    def decode(self, codes: ArrayLike) -> Float32:
        """Reconstruct vectors from codes (n, code_size): float32 (n, d).

        Raises
        ------
        ValueError, TypeError
            If the object is not trained, or codes are not uint8 (n, code_size).
        """
        self._require_trained()
        array = _checks.plain("codes", codes)
        if array.dtype != np.uint8:
            raise TypeError(f"codes: expected dtype uint8, got {array.dtype}")
        if array.ndim != 2 or array.shape[1] != self.code_size:
            raise ValueError(f"codes: expected shape (n, {self.code_size}), got {array.shape}")
        return self.unrotated(self.decoded(np.ascontiguousarray(array), threads.resolve(self.n_threads)))

    def decoded(self, codes: UInt8, n_threads: int) -> Float32:
        """The vectors that codes stand for, in the space of the codebooks."""
        out = np.empty((len(codes), self.offsets[-1]), dtype=np.float32)
        _native.decode(self.codebooks, self.offsets, self.nbits, codes, out, n_threads)
        return out

    def unrotated(self, x: Float32) -> Float32:
        """Rows in the space of the codebooks, rotated back."""
        return self._rotation.inverse(x, threads.resolve(self.n_threads)) if self._rotation else x

    def _sub_codes(self, codes: UInt8) -> Int32:
        ids = np.empty((self.m, len(codes)), dtype=np.int32)
        _native.unpack_codes(codes, self.nbits, ids)
        return ids

    def count(self, codes: UInt8, counts: Int64, step: int) -> None:
        """Add `step` to the OpenIndexing counters of the sub-codes."""
        for j, ids in enumerate(self._sub_codes(codes)):
            np.add.at(counts[min(j, len(counts) - 1)], ids, step)

    def lengths(self, codes: UInt8, n_threads: int) -> Float32:
        """Upper bounds of the L2 norms of the reconstructions before the inverse rotation: float32 (n,)."""
        squares = np.einsum("jkt,jkt->jk", self.codebooks, self.codebooks, dtype=np.float64)
        total = np.empty(len(codes))
        _native.sum_entries(squares, self.nbits, codes, total, n_threads)
        return (np.sqrt(total) * (1 + 1e-6)).astype(np.float32)  # 1e-6 covers the rounding to float32

    def distance_table(self, Q: ArrayLike) -> Float32:
        """Look-up tables: squared L2 distances of sub-vectors of queries to all centroids, float32 (nq, m, 2**nbits).

        The asymmetric distance (ADC) of a query to a code is the sum of m entries. A 1-d query gives (m, 2**nbits).

        Raises
        ------
        ValueError, TypeError
            If the object is not trained, or Q is not finite numbers of the training dimension.
        """
        self._require_trained()
        queries, single = _checks.queries(Q, self.dim, threads.resolve(self.n_threads))
        k = 1 << self.nbits
        tables = aligned_empty(len(queries), self.m, max(k, 16))
        self.adc(L2).tables(self.rotate(queries, 1), tables)
        tables = np.ascontiguousarray(tables[:, :, :k])
        return tables[0] if single else tables

    def _directions(self, vectors: Array, n_threads: int) -> Array:
        """The vectors scaled to length 1, in the space of the codebooks."""
        return self.rotate(COSINE.prepare(vectors, n_threads), n_threads)

    def rotate(self, x: Array, n_threads: int) -> Array:
        """Rotate rows into the space of the codebooks."""
        return self._rotation.apply(x, n_threads) if self._rotation else x

    def adc(self, metric: Metric, power: int = 0) -> _native.ADC:
        """The asymmetric distances of queries, scaled by 2**power, to codes."""
        power = 0 if metric.inner_product else power
        cached = self._adc
        if cached is None or cached[0] != power or cached[1] != metric.kernel:
            codebooks = scaling.scaled(self.codebooks, power)
            packed = pack_codebooks(codebooks, self.offsets) if power else self._packed
            adc = _native.ADC(packed, codebooks, self.offsets, self.nbits, metric.kernel)
            self._adc = cached = power, metric.kernel, adc
        return cached[2]

    def __repr__(self) -> str:
        state = f"dim={self.dim}" if self.is_trained else "not trained"
        return f"ProductQuantizer(m={self.m}, nbits={self.nbits}, rotation={self.rotation!r}, {state})"
