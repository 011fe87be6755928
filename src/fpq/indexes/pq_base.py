"""The base of indexes over product-quantized vectors: the quantizer, kept vectors, re-ranking."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, progress, scaling, threads, tuning
from fpq._arrays import GrowingArray
from fpq._checks import Array, Float32, Int64, Rows, UInt8
from fpq.indexes.base import Bits, Index, SearchResult
from fpq.indexes.parts import arguments, recall_ceiling
from fpq.indexes.parts.ids import Commit, Entries
from fpq.indexes.parts.lock import reads, writes
from fpq.indexes.parts.operating_points import OperatingPoints
from fpq.indexes.parts.plan import planned, stages
from fpq.indexes.parts.refinement import BITS, Columns, Refinement, RefineName, columns_of
from fpq.indexes.parts.streaming import gathered
from fpq.indexes.parts.true_neighbors import true_neighbors
from fpq.indexes.parts.vector_file import VectorFile
from fpq.indexes.parts.vectors import Vectors
from fpq.learning.anisotropic import WEIGHT, loss_of
from fpq.learning.kmeans import sample_rows
from fpq.learning.lloyd import Change, LocalRows, TrainingRows
from fpq.learning.open_indexing import OpenIndexing
from fpq.learning.quantizer import ProductQuantizer, RotationName
from fpq.metric import MetricName
from fpq.progress import Progress
from fpq.storage import Stored


class CodeIndex(Index):
    """An index of codes, which also keeps the vectors if `keep_vectors` is set."""

    rerank = _settings.Setting(_settings.optional(_settings.integer(1)))
    keep_vectors = _settings.Fixed(_settings.flag_or_path)
    refine = _settings.Fixed(_settings.choice(None, *BITS))
    anisotropy = _settings.Fixed(_settings.real(1.0))

    _state_names: tuple[str, ...] = ("quantizer", "_counts", "_refinement", "_columns", "_is_judged", "_points")
    _bound_by = "coded by its present codebooks"

    quantizer: ProductQuantizer
    _refinement: Refinement | None  # what `fit` learned for `refine`
    _columns: Columns  # the refinement codes
    _points: OperatingPoints | None  # what `tune` measured
    _is_judged: bool  # whether the codes alone have been judged by their error, or `tune` by their recall

    def __init__(
        self,
        m: int | None,
        *,
        nbits: int,
        rotation: RotationName | None,
        rotation_dim: int | None,
        open_indexing: OpenIndexing | float | None,
        metric: MetricName,
        anisotropy: float | None,
        init: Literal["k-means++", "random"],
        keep_vectors: bool | str | os.PathLike[str],
        refine: RefineName | None,
        seed: int,
        n_threads: int | None,
        verbose: bool | Callable[[Progress], None],
    ) -> None:
        super().__init__(metric, n_threads, verbose)
        self.quantizer = ProductQuantizer(
            m, nbits=nbits, rotation=rotation, rotation_dim=rotation_dim, open_indexing=open_indexing,
            init=init, seed=seed, n_threads=n_threads, verbose=verbose,
        )  # fmt: skip
        plain = not self._metric.inner_product or self.quantizer.open_indexing is not None
        self.anisotropy = anisotropy if anisotropy is not None else 1.0 if plain else WEIGHT
        if plain and self.anisotropy > 1:
            raise ValueError(
                f"anisotropy: expected None or 1 with the metric 'l2' or with open_indexing, got {anisotropy}: it "
                "weights errors of inner products"
            )
        self.rerank = None
        self.keep_vectors = keep_vectors
        self.refine = refine
        self._refinement = None
        if isinstance(self.keep_vectors, str):
            self._vectors = VectorFile(self.keep_vectors, normalize=self._metric.unit_length)
        self._counts: Int64 | None = None  # the counters of OpenIndexing, from the first add on

    def _inputs(self) -> tuple[str, ...]:
        return (self._vectors.path,) if isinstance(self._vectors, VectorFile) else ()

    @property
    def dim(self) -> int | None:
        """Dimension of the vectors; None until `fit`."""
        return self.quantizer.dim if self.is_trained else None

    @property
    def is_trained(self) -> bool:
        """Whether `fit` has been called."""
        return self.quantizer.is_trained

    @property
    def _common_nbytes(self) -> int:
        """Bytes of the arrays that all indexes of codes have."""
        learned = self.quantizer.nbytes + (0 if self._refinement is None else self._refinement.nbytes)
        counts = 0 if self._counts is None else self._counts.nbytes
        return learned + counts + self._columns.nbytes + self._vectors.nbytes + self._ids.nbytes

    def _fitting(self, X: Any) -> Commit:
        n_threads = threads.resolve(self.n_threads)
        with progress.stage("sample", None, "rows") as advance:
            x = _checks.vectors("X", X, min_rows=1, n_threads=n_threads)
            rows = LocalRows(x, self._drawn(len(x)), n_threads)
            advance(rows.n)
        return self._learning(rows, len(x))

    def _choose(self, n: int, size: int) -> Int64 | None:
        """A random sample of `size` of `n` row numbers, ascending; None if `n` <= `size`: all rows."""
        return sample_rows(n, size, np.random.default_rng(self.quantizer.seed), shuffle=True)

    @property
    def _training_size(self) -> int:
        """The maximum number of rows that `fit` learns from."""
        return self.quantizer.max_training_rows

    @property
    def _training_seed(self) -> int:
        return self.quantizer.seed

    @abstractmethod
    def _drawn(self, n: int) -> Int64 | None:
        """The numbers of the rows, of n, that `fit` learns from; None: all rows."""

    @abstractmethod
    def _learning(self, rows: TrainingRows, n: int) -> Commit:
        """As `_fitting`, with the same bits, from `rows`: those that `_drawn(n)` selects."""

    @writes
    def _fit_drawn(self, rows: TrainingRows, n: int, total: int) -> None:
        self._fit(self._learning, rows, n)

    def _quantizer_copy(self) -> ProductQuantizer:
        """A shallow copy of the quantizer for training; the commit of `_learned` takes over what the copy learned."""
        copy = object.__new__(ProductQuantizer)
        vars(copy).update(vars(self.quantizer))
        return copy

    def _learned(self, trained: ProductQuantizer, refinement: Refinement | None, **attributes: Any) -> Commit:
        """A commit that empties the index and takes over a trained copy of the quantizer and these attributes."""
        new = {**self._no_rows(), "_refinement": refinement, "_columns": columns_of(refinement), **attributes}

        def commit() -> None:
            vars(self.quantizer).update(vars(trained))
            vars(self).update(new)

        return commit

    def _no_rows(self) -> dict[str, Any]:
        vectors = Vectors() if isinstance(self._vectors, Vectors) else self._vectors
        columns = columns_of(self._refinement)
        return {"_vectors": vectors, "_columns": columns, "_counts": None, "_is_judged": False, "_points": None}

    def _require_file_fits(self, dim: int) -> None:
        if isinstance(self._vectors, VectorFile):
            self._vectors.require_dim(dim)

    def _write_vectors(self, x: Array, ids: Int64, n_threads: int) -> GrowingArray | None:
        return super()._write_vectors(x, ids, n_threads) if self.keep_vectors else None

    def _training(self) -> dict[str, Any]:
        pq = self.quantizer
        arrays = pq._state().arrays
        return {
            **super()._training(), "m": pq.m, "nbits": pq.nbits, "rotation": pq.rotation,
            "open_indexing": pq.open_indexing, "anisotropy": self.anisotropy, "keep_vectors": self.keep_vectors,
            "refine": self.refine,
            "refinement": None if self._refinement is None else self._refinement.training,
            **{name: arrays.get(name) for name in ("rotation_matrix", "rotation_mean", "codebooks")},
        }  # fmt: skip

    def _take_vectors(self, other: Any, ids: Int64) -> GrowingArray | None:
        if isinstance(self._vectors, VectorFile):
            self._vectors.require_ids(ids)
            return None
        return super()._take_vectors(other, ids) if self.keep_vectors else None

    def _restore_vectors(self, stored: Stored) -> None:
        assert self.dim is not None
        if self.keep_vectors is True and (len(self) or stored.has("vectors")):
            self._vectors = Vectors.from_state(stored, len(self), self.dim)
        elif isinstance(self._vectors, VectorFile):
            self._vectors.require_dim(self.dim)
            self._vectors.require_ids(self._ids.values)

    def _reserve(self, n: int) -> None:
        self._vectors.reserve(n)
        self._columns.reserve(n)

    @property
    def _limited(self) -> bool:
        return self.quantizer.open_indexing is not None

    def _next_counts(self) -> Int64 | None:
        """A copy of the counters of OpenIndexing, to be updated by `add` or `remove`."""
        pq = self.quantizer
        if self._counts is None and pq.open_indexing:
            return pq.open_indexing.new_counts(pq.m, 1 << pq.nbits)
        return None if self._counts is None else self._counts.copy()

    def _counts_without(self, places: Int64) -> Int64 | None:
        """The counters of OpenIndexing without the rows in these places."""
        counts = self._next_counts()
        if counts is not None:
            self.quantizer.count(self._codes(places), counts, -1)
        return counts

    def _merged_counts(self, other: CodeIndex) -> Int64 | None:
        """The counters of OpenIndexing for the rows of both indexes."""
        counts = self._next_counts()
        return counts if counts is None or other._counts is None else counts + other._counts

    def _encoded(
        self, x: Array, counts: Int64 | None, leaving: Int64, n_threads: int, change: Change, vectors: Change
    ) -> Iterator[tuple[UInt8, Array]]:
        """The codes of new rows in chunks, and these rows after rotation; `vectors`: those of `Anisotropy`.

        The limits are those without the rows in the places `leaving`.

        At the end, `counts` are those of all rows: old rows, also those that leave, and new rows.
        """
        n = len(self) + len(x) - len(leaving)
        if counts is None:
            loss = loss_of(self.anisotropy, vectors)
            yield from self.quantizer.encode_chunks(x, None, n, n_threads, change, loss)
            return
        codes = self._codes(leaving)
        self.quantizer.count(codes, counts, -1)
        yield from self.quantizer.encode_chunks(x, counts, n, n_threads, change)
        self.quantizer.count(codes, counts, 1)

    @abstractmethod
    def _decode(self, ids: Any) -> Float32:
        """Reconstruct the vectors of these ids from their codes, float32 (len(ids), d)."""

    @abstractmethod
    def _codes(self, rows: Int64) -> UInt8:
        """The codes at these places, uint8 (len(rows), code_size)."""

    def _search_codes(
        self, Q: Any, k: int, recall: float | None, allowed: Any, n_threads: int | None, rerank: int | None,
        n_probe: int | None = None,
    ) -> SearchResult:  # fmt: skip
        """The k nearest codes or, with re-ranking, the k nearest vectors among the rerank * k nearest codes."""
        own = vars(self)
        known: arguments.Arguments | None = self._lock.memo.get("arguments")
        if recall is None:
            n_threads = own["n_threads"] if n_threads is None else n_threads
            rerank = own["rerank"] if rerank is None else rerank
            n_probe = own.get("n_probe") if n_probe is None else n_probe
        if (
            known is None or recall is not None or known.k is not k or known.n_threads is not n_threads
            or known.rerank is not rerank or known.n_probe is not n_probe
        ):  # fmt: skip
            known = arguments.checked(self, k, recall, n_threads, rerank, n_probe)
        count = threads.resolve(None) if known.n_threads is None else known.n_resolved
        found = self._found(Q, known.k, allowed, count, self._ranked, known.effort)
        if known.by_codes and not self._is_judged and len(found.ids) >= recall_ceiling.LEAST_QUERIES:
            self._is_judged = recall_ceiling.judge(self, Q, found)
        return found

    def _require_ranked(self, rerank: int | None) -> None:
        if rerank is not None and not self.keep_vectors and self.refine is None:
            raise ValueError(
                f"rerank: expected None, got {rerank}: the index keeps no vectors, build it with keep_vectors=True or "
                'refine="sq8"'
            )

    def _ranked(
        self, queries: Float32, k: int, allowed: Bits | None, n_threads: int, *, rerank: int | None = None,
        n_probe: int | None = None, probes: Int64 | None = None,
    ) -> tuple[Float32, Int64]:  # fmt: skip
        """The k <= n nearest of prepared queries by the most exact distances that the index knows."""
        plan = planned(self, k, rerank, n_probe) if allowed is None and probes is None else None
        if plan is not None and not self._scaled(queries)[1]:
            return plan.nearest(queries, self.quantizer.rotate(queries, n_threads), n_threads)
        effort: dict[str, Any] = {"n_probe": n_probe, "probes": probes}
        refined, exact = stages(self, k, rerank)
        if exact and isinstance(self._vectors, VectorFile):
            found = self._nearest(queries, exact, allowed, n_threads, sort=False, refined=refined, **effort)
            return self._reranked(queries, found[1], k, n_threads)
        return self._nearest(queries, k, allowed, n_threads, refined=refined, candidates=exact, **effort)

    def _reranked(self, queries: Float32, candidates: Int64, k: int, n_threads: int) -> tuple[Float32, Int64]:
        """The k nearest candidates of prepared queries by the exact distances; `candidates` are ids (nq, r >= k)."""
        queries, power = self._scaled(queries)
        found = self._exact(queries, candidates, n_threads, power)
        distances, ids = np.empty((len(found), k), np.float32), np.empty((len(found), k), np.int64)
        _native.smallest(found, np.ascontiguousarray(candidates), distances, ids, n_threads)
        return scaling.unscaled(distances, power, self._metric.inner_product), ids

    @abstractmethod
    def _native_codes(self, refined: _native.Refined | None, power: int, allowed: Bits | None) -> _native.Codes:
        """The codes as searches for queries scaled by 2**power read them; `allowed`: bits of rows, None: all."""

    def _candidate_ids(self) -> tuple[Entries | None, Int64 | None]:
        """The ids of all rows, None: row numbers; before them a table of the ids, if a scan finds ids and not rows."""
        return None, self._ids.native

    @reads
    @progress.reported
    def tune(
        self,
        Q: Rows,
        k: int = 10,
        recall: float = 0.95,
        *,
        X: Rows | None = None,
        neighbors: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuning.Tuning:
        """Measure search settings on sample queries, and set the attributes to the fastest that reaches a recall.

        `tune` compares searches to exact search. `rerank` is at most 128; an index that keeps neither vectors nor
        refinement codes is searched without re-ranking. With inverted lists, the number of probes grows from 1 to
        n_lists by a quarter per step. The choice depends on measured times. It differs between machines, and between
        runs if two settings are about equally fast. A setting must reach the recall on each half of the queries; use
        several hundred queries, better several thousand.

        `tune` also measures settings for recalls from 0.8 to 0.99, from which ``search(Q, k, recall=...)`` chooses.
        These measurements hold for this k. They are kept until the next `tune`, `fit` or `reset`: call `tune` again
        when the number of vectors has changed much.

        Parameters
        ----------
        Q : array (nq, d), or in blocks as the rows of `add`
            Queries like those of the application. Rows of the index would find themselves.
        k : int, default 10
        recall : float, default 0.95
            Required share of the k true neighbours among the k neighbours found.
        X : array (n, d), or in blocks as the rows of `add`, optional
            For an index that keeps no vectors: row i is the vector with id i. Rows of other ids are ignored.
        neighbors : int array (nq, >= k), optional
            Instead of X: the ids of the true neighbours, nearest first.
        n_threads : int, optional
            Number of threads of the timed searches, each of one query batch.

        Returns
        -------
        fpq.tuning.Tuning
            The measurements, fastest first; prints as a table.

        Raises
        ------
        ValueError, TypeError
            If no setting reaches the recall (the message gives the best), the index is empty or not trained, or an
            argument is not as described. The index is then unchanged.

        Examples
        --------
        >>> import numpy as np, fpq
        >>> X = np.random.default_rng(0).normal(size=(5000, 16)).astype(np.float32)
        >>> index = fpq.IVFPQIndex(n_lists=50, m=8, keep_vectors=True).fit(X[300:]).add(X[300:])
        >>> tuned = index.tune(X[:300], recall=0.9)
        >>> tuned.best.recall >= 0.9, index.n_probe == tuned.best.setting["n_probe"]
        (True, True)
        >>> index.search(X[:300], recall=0.8).ids.shape
        (300, 10)
        """
        count = threads.resolve(self.n_threads if n_threads is None else n_threads)
        k = _checks.integer("k", k, 1)
        recall = tuning.recall_target(recall)
        queries, _ = self._queries(gathered(Q, self.dim), count)
        if not len(queries):
            raise ValueError("Q: expected at least one query, got none")
        if not len(self):
            raise ValueError("tune: expected vectors in the index, got an empty index")
        most = min(k, len(self))
        truth = true_neighbors(self, queries, most, X, neighbors, count)

        def search(setting: tuning.Setting) -> Int64:
            effort: dict[str, Any] = dict(setting)
            return self._ranked(queries, most, None, count, **effort)[1]

        tuned = tuning.fastest(search, *self._tuned_settings(most), truth, recall, tuning.RECALLS)
        points = OperatingPoints.measured(k, tuned.trials) if most == k else None
        vars(self).update(tuned.best.setting, _is_judged=True, _points=points)
        return tuned

    def _tuned_settings(self, k: int, n: int | None = None) -> tuple[list[tuning.Setting], list[int | None]]:
        """The efforts and the values of `rerank` to measure, for n vectors instead of those of the index."""
        n_lists, n = getattr(self, "n_lists", None), len(self) if n is None else n
        return tuning.settings(n_lists, bool(self.keep_vectors), self.refine is not None, n, k)

    def _exact(self, queries: Float32, candidates: Int64, n_threads: int, power: int) -> Float32:
        """The exact distances of prepared queries to the kept vectors of `candidates` (nq, r); +inf for id -1."""
        if self._vectors.dim is None:
            return np.full(candidates.shape, np.inf, dtype=np.float32)
        by_id = self._vectors.by_id or self._ids.native is None
        rows = candidates if by_id else self._ids.rows_or_missing(candidates)
        return self._vectors.distances(queries, rows, self._metric, n_threads, power)

    @reads
    def reconstruct(self, ids: Any) -> Float32:
        """The vectors with these ids, float32 (len(ids), d): kept vectors, or reconstructions from the codes.

        Raises
        ------
        ValueError
            If the index is not trained or an id is not in the index.
        """
        self._require_trained()
        wanted, rows = self._ids.present(ids)
        if self.keep_vectors and len(rows):
            return self._vectors.rows(wanted if self._vectors.by_id else rows)
        return self._decode(ids)

    def _decoded(self, places: Int64, rows: Int64) -> Float32:
        """The vectors (n, d) of these rows by the codes, in these places, and their refinement."""
        decoded = self.quantizer.decoded(self._codes(places), threads.resolve(self.n_threads))
        if self._refinement is not None:
            decoded += self._refinement.decode(self._columns.planes().at(rows))
        return self.quantizer.unrotated(decoded)

    def _describe(self, *parameters: str) -> str:
        pq = self.quantizer
        parts = [*parameters, f"m={pq.m}", f"nbits={pq.nbits}", f"rotation={pq.rotation!r}", f"metric={self.metric!r}"]
        parts += [f"keep_vectors={self.keep_vectors!r}", f"rerank={self.rerank}"] if self.keep_vectors else []
        parts += [f"refine={self.refine!r}"] if self.refine else []
        return f"{type(self).__name__}({', '.join(parts)}, n={len(self)}, dim={self.dim}, nbytes={self.nbytes})"
