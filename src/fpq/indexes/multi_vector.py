"""Search for documents of many token vectors by MaxSim (late interaction)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _native, _settings, progress, threads
from fpq._checks import Array, Float32, Int64
from fpq.indexes import multi_vector_file, multi_vector_rows
from fpq.indexes.base import Bits, Index, RangeResult, SearchResult
from fpq.indexes.changes import Addition
from fpq.indexes.parts.coarse import CoarseQuantizer
from fpq.indexes.parts.documents import Documents, DocumentsLike, documents, queries
from fpq.indexes.parts.ids import Commit, Removal
from fpq.indexes.parts.lock import reads, writes
from fpq.indexes.parts.tokens import Tokens
from fpq.learning.anisotropic import WEIGHT
from fpq.learning.quantizer import ProductQuantizer
from fpq.progress import Progress
from fpq.storage import State, Stored

MOST_DOCUMENTS = (1 << 31) - 1  # lists hold the rows of documents in 32 bits


class MultiVectorIndex(Index, kind="MultiVectorIndex"):
    """Documents of many token vectors, ranked by MaxSim: late interaction as in ColBERT.

    The score of a document is the sum, over the tokens of the query, of the largest inner product with a token of the
    document. Khattab, Zaharia, ColBERT, 2020. Each token belongs to the list of its nearest centroid, one of `n_lists`,
    and has a code of m bytes, as in an `IVFPQIndex`. A search takes three steps, which follow Santhanam, Khattab,
    Potts, Zaharia, PLAID, 2022:

    1. Each token of the query probes the `n_probe` lists of its nearest centroids. The documents with a token in a
       probed list are found.
    2. The found documents are scored by the centroids of their tokens in place of the tokens (centroid interaction).
       The best `n_candidates` stay.
    3. These candidates are scored by the codes of their tokens.

    With `rerank`, the best documents are scored once more by their vectors. The scores of step 3 are exact with respect
    to the codes: they have the same bits for any number of threads and any instruction set. Any number of threads may
    search at the same time. A call that changes the index runs alone.

    Parameters
    ----------
    n_lists : int or None, default None
        Number of lists, up to 2**24. None: `fit` chooses 4 times the square root of the number of tokens. The attribute
        is None until then. If you train on a part of the documents, give a number that suits all of them.
    m : int or None, default None
        Bytes per token, as in `PQIndex`. None: `fit` chooses m from the number of dimensions.
    metric : {"cosine", "ip"}, default "cosine"
        "cosine": tokens and queries are scaled to length 1. "ip": inner products of the vectors as they are.
    residual : bool, default True
        True: codes are those of residuals, the differences to the centroid of the list (more accurate). False: codes
        are those of the tokens.
    anisotropy : float, default 4
        As in `PQIndex`.
    keep_vectors : bool, default False
        Keep the vectors of the tokens for `rerank`, in the dtype of the input, as in `FlatIndex`.
    seed : int, default 0
    n_threads : int or None, default None
        Number of threads. None: all available cores, or OMP_NUM_THREADS.
    verbose : bool or function, default False
        As in `PQIndex`.

    Attributes
    ----------
    quantizer : ProductQuantizer
        The quantizer of the tokens.
    centroids : float32 (n_lists, d)
    n_probe : int
        Default of the argument `n_probe` of `search`. Initially 4.
    n_candidates : int
        Default of the argument `n_candidates` of `search`. Initially 256.
    rerank : int or None
        Default of the argument `rerank` of `search`. Initially None: no re-ranking.
    last_found : int64 (nq,) or None
        The number of documents that each query of the last search found in its lists (step 1).

    Examples
    --------
    >>> import numpy as np, fpq
    >>> rng = np.random.default_rng(0)
    >>> documents = [rng.normal(size=(rng.integers(5, 15), 32)).astype(np.float32) for _ in range(500)]
    >>> index = fpq.MultiVectorIndex(n_lists=64, m=16).fit(documents).add(documents)
    >>> query = documents[7][:4]            # four tokens of a document
    >>> scores, ids = index.search(query, k=3)
    >>> int(ids[0]), bool(scores[0] > 3)    # the largest possible score is 4
    (7, True)
    """

    metric = _settings.Fixed[Literal["cosine", "ip"]](_settings.choice("cosine", "ip"))
    n_lists = _settings.Fixed(_settings.known_after_fit(_settings.integer(1, 1 << 24)))
    residual = _settings.Fixed(_settings.choice(True, False))
    anisotropy = _settings.Fixed(_settings.real(1.0))
    keep_vectors = _settings.Fixed(_settings.flag)
    n_probe = _settings.Setting(_settings.integer(1))
    n_candidates = _settings.Setting(_settings.integer(1))
    rerank = _settings.Setting(_settings.optional(_settings.integer(1)))

    _state_names: tuple[str, ...] = ("n_lists", "quantizer", "_coarse", "_tokens")
    _bound_by = "coded by its present codebooks"
    _max_rows = MOST_DOCUMENTS

    quantizer: ProductQuantizer
    last_found: Int64 | None
    _coarse: CoarseQuantizer | None
    _tokens: Tokens

    def __init__(
        self,
        n_lists: int | None = None,
        m: int | None = None,
        metric: Literal["cosine", "ip"] = "cosine",
        *,
        residual: bool = True,
        anisotropy: float = WEIGHT,
        keep_vectors: bool = False,
        seed: int = 0,
        n_threads: int | None = None,
        verbose: bool | Callable[[Progress], None] = False,
    ) -> None:
        super().__init__(metric, n_threads, verbose)
        self.n_lists = n_lists
        self.residual = residual
        self.anisotropy = anisotropy
        self.keep_vectors = keep_vectors
        self.n_probe = 4
        self.n_candidates = 256
        self.rerank = None
        self.quantizer = ProductQuantizer(m, init="random", seed=seed)
        self.last_found = None
        self._coarse = None
        vars(self).update(self._no_rows())

    def _no_rows(self) -> dict[str, Any]:
        return {"_tokens": Tokens(self.quantizer.code_size)}

    @property
    def dim(self) -> int | None:
        """Dimension of the tokens; None until `fit`."""
        return self.quantizer.dim if self.is_trained else None

    @property
    def is_trained(self) -> bool:
        """Whether `fit` has been called."""
        return self._coarse is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays of the index: tokens, lists, centroids, codebooks, ids."""
        coarse = 0 if self._coarse is None else self._coarse.nbytes
        return self.quantizer.nbytes + coarse + self._tokens.nbytes + self._ids.nbytes

    @property
    def centroids(self) -> Float32 | None:
        """The centroids of the lists, float32 (n_lists, d); None until `fit`."""
        return None if self._coarse is None else self._coarse.centroids

    @property
    @reads
    def n_tokens(self) -> int:
        """The number of tokens of all documents."""
        return self._tokens.n_tokens

    @writes
    @progress.reported
    def fit(self, documents: DocumentsLike, *, lengths: ArrayLike | None = None) -> MultiVectorIndex:
        """Learn the centroids and the codebooks from (a sample of) the tokens. The documents are not kept.

        Parameters
        ----------
        documents, lengths
            As in `add`, of at least n_lists tokens in all.

        Raises
        ------
        ValueError, TypeError
            If the arguments are not as described, tokens have fewer than m dimensions, or the index holds documents.
            The index is then unchanged.
        """
        self._fit(self._fitting, (documents, lengths))
        return self

    def _fitting(self, X: Any) -> Commit:
        return multi_vector_rows.fitting(self, documents(X[0], X[1], None, threads.resolve(self.n_threads)).tokens)

    @writes
    def add(
        self, documents: DocumentsLike, ids: ArrayLike | None = None, *, lengths: ArrayLike | None = None
    ) -> MultiVectorIndex:
        """Encode and add documents.

        Parameters
        ----------
        documents : list of arrays (t_i, d), array (n, t, d), or array (n_tokens, d) with `lengths`
            Each document has at least one token. float32, float64, float16, uint8 and int8 arrays are read in place; a
            list is joined first.
        ids : int array (n,), optional
            Unique, not in the index, at least 0. By default, ids continue after the largest id used so far.
        lengths : int array (n,), optional
            The number of tokens of each document, if `documents` is one array of all tokens.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, or the arguments are not as described. The index is then unchanged.
        """
        self._add((documents, lengths), ids)
        return self

    def update(self, documents: DocumentsLike, ids: ArrayLike, *, lengths: ArrayLike | None = None) -> MultiVectorIndex:
        """Replace the documents with these ids. Ids that are not in the index are added.

        No search of another thread finds the documents missing, and a failed or interrupted call leaves the index as it
        was. The tokens of all documents are copied: replacing many documents in one call takes about as long as
        replacing one.

        Parameters
        ----------
        documents, lengths
            As in `add`.
        ids : int array (n,)
            Unique, at least 0.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, the arguments are not as described, or the index is mapped from a file.

        Examples
        --------
        >>> import numpy as np, fpq
        >>> documents = np.random.default_rng(0).normal(size=(100, 8, 16))
        >>> index = fpq.MultiVectorIndex(n_lists=8, m=8, keep_vectors=True).fit(documents).add(documents)
        >>> index.update([documents[3][:2]], ids=[5]).reconstruct([5])[0].shape
        (2, 16)
        """
        tokens: Any = (documents, lengths)
        return super().update(tokens, ids)

    def _checked(self, X: Any) -> Documents:
        return documents(X[0], X[1], self.dim, threads.resolve(self.n_threads))

    def _write_vectors(self, x: Any, ids: Int64, n_threads: int) -> None:
        """Kept vectors are part of the tokens."""

    def _adding(self, x: Any, ids: Int64, kept: Array | None, leaving: Int64, n_threads: int) -> Addition:
        return multi_vector_rows.adding(self, x, n_threads)

    def _take_vectors(self, other: Any, ids: Int64) -> None:
        """Kept vectors are part of the tokens."""

    def _merging(self, other: Any, ids: Int64, kept: Array | None, n_threads: int) -> Addition:
        return multi_vector_rows.merging(self, other)

    def _training(self) -> dict[str, Any]:
        names = ("n_lists", "residual", "anisotropy", "keep_vectors", "centroids")
        codebooks = self.quantizer._state().arrays["codebooks"]
        return {**super()._training(), **{name: getattr(self, name) for name in names}, "codebooks": codebooks}

    def _removing(self, removal: Removal, places: Int64) -> Commit:
        tokens = self._tokens.without(removal)
        return lambda: vars(self).update(_tokens=tokens)

    @reads
    def search(
        self,
        Q: DocumentsLike,
        k: int = 10,
        *,
        n_probe: int | None = None,
        n_candidates: int | None = None,
        rerank: int | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> SearchResult:
        """The k documents of the largest MaxSim scores among the candidates; the lower id wins ties.

        Parameters
        ----------
        Q : array (t, d), list of arrays (t_i, d), or array (nq, t, d)
            One query, or several.
        k : int, default 10
        n_probe : int, optional
            Number of lists that each token of a query probes; more than n_lists means all. Default: the attribute
            `n_probe`.
        n_candidates : int, optional
            Number of documents that are scored by their codes, at least k of them. Default: the attribute
            `n_candidates`.
        rerank : int, optional
            Score the best ``rerank * k`` documents by the kept vectors. Default: the attribute `rerank`.
        allowed : array of ids, or boolean mask by id, optional
            Return only these ids.
        n_threads : int, optional

        Returns
        -------
        SearchResult
            Scores, the largest first, and ids. Id -1 and score -inf where fewer than k documents are found. The scores
            of codes differ from those of the vectors by the error of the codes; with `rerank` they are exact.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, an argument is not as described, or `rerank` is given and the index keeps no
            vectors.
        """
        rerank = self.rerank if rerank is None else _checks.integer("rerank", rerank, 1)
        if rerank is not None and not self.keep_vectors:
            raise ValueError(f"rerank: expected None, got {rerank}: build the index with keep_vectors=True")
        find = partial(self._ranked, rerank=rerank, **self._given(n_probe, n_candidates))
        return self._search(Q, k, allowed, n_threads, find)

    def _queries(self, Q: Any, n_threads: int) -> tuple[Any, bool]:
        self._require_trained()
        x, single = queries(Q, self.quantizer.dim, n_threads)
        tokens = self._metric.prepare(np.ascontiguousarray(x.tokens, dtype=np.float32), n_threads)
        return Documents(tokens, x.first), single

    @property
    def _largest(self) -> float:
        assert self._coarse is not None
        return max(self.quantizer.largest, self._coarse.largest)

    def _scaled(self, queries: Any) -> tuple[Any, int]:
        tokens, power = super()._scaled(queries.tokens)
        return Documents(tokens, queries.first), power

    def _ranked(
        self, queries: Any, k: int, allowed: Bits | None, n_threads: int, *, n_probe: int, n_candidates: int,
        rerank: int | None,
    ) -> tuple[Float32, Int64]:  # fmt: skip
        """The k best of the candidates for prepared queries."""
        n = min((rerank or 1) * k, len(self))
        effort: dict[str, Any] = {"n_probe": n_probe, "n_candidates": max(n, n_candidates)}
        if rerank is None:
            return self._nearest(queries, k, allowed, n_threads, **effort)
        ids = self._nearest(queries, n, allowed, n_threads, sort=False, **effort)[1]
        return multi_vector_rows.reranked(self, queries, ids, k, n_threads)

    def _scan(
        self, queries: Any, power: int, answers: _native.Answers, allowed: Bits | None, n_threads: int,
        n_probe: int = 1, n_candidates: int = 1, **_: Any,
    ) -> None:  # fmt: skip
        self.last_found = multi_vector_rows.scan(
            self, queries, power, answers, allowed, n_threads, n_probe, n_candidates
        )

    @reads
    def range_search(
        self,
        Q: DocumentsLike,
        radius: float,
        *,
        n_probe: int | None = None,
        n_candidates: int | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> RangeResult:
        """All candidates with a score of at least `radius`, by their codes.

        Parameters
        ----------
        Q : array (t, d), list of arrays (t_i, d), or array (nq, t, d)
            One query, or several.
        radius : float
            The smallest score.
        n_probe, n_candidates : int, optional
            As in `search`.
        allowed, n_threads
            As in `search`.

        Returns
        -------
        RangeResult
            ``lims, distances, ids``, the largest score first; the lower id wins ties.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained or an argument is not as described.
        """
        return self._range_search(Q, radius, allowed, n_threads, **self._given(n_probe, n_candidates))

    def _given(self, n_probe: int | None, n_candidates: int | None) -> dict[str, Any]:
        """The arguments of a search; None: those of the attributes."""
        given = {"n_probe": n_probe, "n_candidates": n_candidates}
        return {
            name: getattr(self, name) if value is None else _checks.integer(name, value, 1)
            for name, value in given.items()
        }

    @reads
    def reconstruct(self, ids: Any) -> list[Float32]:  # type: ignore[override]
        """The tokens of the documents with these ids: kept vectors, or reconstructions from the codes.

        Returns
        -------
        list of float32 (t_i, d)
            "cosine": kept vectors are of length 1.

        Raises
        ------
        ValueError
            If the index is not trained or an id is not in the index.
        """
        self._require_trained()
        rows = self._ids.rows(ids)
        numbers, begins = self._tokens.of(rows)
        if self.keep_vectors and len(rows):
            tokens = self._tokens.vectors.rows(numbers)
        else:
            tokens = multi_vector_rows.decoded(self, numbers)
        return np.split(tokens, begins[1:-1]) if len(rows) else []

    def _state(self) -> State:
        return multi_vector_file.state(self)

    @classmethod
    def _from_state(cls, stored: Stored) -> MultiVectorIndex:
        return multi_vector_file.restored(cls, stored)

    def __repr__(self) -> str:
        parts = (
            f"n_lists={self.n_lists}, m={self.quantizer.m}, metric={self.metric!r}, keep_vectors={self.keep_vectors}, "
            f"n_probe={self.n_probe}, n_candidates={self.n_candidates}, rerank={self.rerank}, n={len(self)}, "
            f"n_tokens={self._tokens.n_tokens}, dim={self.dim}, nbytes={self.nbytes}"
        )
        return f"MultiVectorIndex({parts})"
