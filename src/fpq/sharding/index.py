"""An index in several files: search in all shards, exact merge of the results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _files, _settings, threads, tuning
from fpq._checks import Float32, Int64, Rows
from fpq.indexes.parts import true_neighbors
from fpq.indexes.parts.operating_points import OperatingPoints, chosen
from fpq.metric import METRICS, negated
from fpq.sharding import manifest as manifests
from fpq.sharding import measuring, merge
from fpq.sharding.manifest import Manifest
from fpq.sharding.merge import ShardQuery
from fpq.sharding.results import ShardedRangeResult, ShardedResult
from fpq.sharding.shards import Shards


class ShardedIndex(Shards):
    """An index in several files (shards) that is searched like a single index.

    Shards are files of indexes of one class with the same training and parameters and disjoint ranges of ids; a
    manifest lists them. The classes are FlatIndex, PQIndex, IVFPQIndex, E2LSHIndex, C2LSHIndex and PMLSHIndex. For any
    number of shards, a search returns the same ids and the same float32 distances as one index of all vectors. (The
    limits of `open_indexing` and `list_capacity` apply within each shard, so the codes themselves may differ from those
    of one index.)

    Shards of C2LSHIndex and PMLSHIndex are the exception: each stops by its own rules, and the answer is the k nearest
    of the answers of all shards. It costs more than in one index, and finds other vectors. What the class guarantees
    for the nearest vector holds for the answer, as it holds in the shard that has this vector. What it guarantees for
    the i-th nearest holds for a PMLSHIndex with a `beta` of at least 1, as by default. With `n_candidates`, each
    shard compares the queries with so many vectors; those of a PMLSHIndex include all that one index would choose.

    Shards are mapped into memory: opening takes milliseconds, and a page is read from the disk when it is first used.
    Any number of threads may search, also while another thread adds and drops shards. A process that serves an index
    calls `reload` to take up shards that another process has added or dropped.

    A copy and an unpickled object open the manifest again, with the same settings and measurements of `tune`. They have
    the shards that the manifest then lists, and their process must see the files under the same path. A copy has the
    same client; an index with a client cannot be pickled.

    Parameters
    ----------
    manifest : path
        A file from `ShardedIndex.create` or `fpq.dask.build`.
    client : dask.distributed.Client, optional
        Search on the cluster of the client: each worker holds a part of the shards, receives the queries and returns
        its nearest vectors. Workers must see the folder of the manifest under the same path.
    replicas : int, default 1
        With a client: the number of workers that hold each shard, all workers if there are fewer. From 2 on, a worker
        that takes longer than 95 % of the recent tasks is late: its shards are searched by other workers too, and the
        first answer counts. Until it has answered, it gets no further task if others hold the shards. The answers have
        the same bits.
    allow_partial : bool, default False
        Skip missing and damaged shards, and name them in the result.

    Attributes
    ----------
    n_probe, rerank, n_candidates : int or None
        Defaults of the arguments of `search`. None, the initial value: `n_probe` and `n_candidates` of each file, and
        no re-ranking. `tune` sets those of the class. Files do not contain them.

    Raises
    ------
    FormatError
        If the manifest has another version or is not well-formed. Unless `allow_partial`, also if a shard is missing or
        damaged, is another file than the one of the manifest, or has other codebooks; the error names all such shards.
    OSError
        If the manifest cannot be read.

    Examples
    --------
    >>> import fpq, numpy as np, pathlib, tempfile
    >>> X = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for i in range(3):
    ...     fpq.FlatIndex().add(X[i * 100 : i * 100 + 100]).save(folder / f"{i}.fpq")
    >>> files, offsets = [folder / f"{i}.fpq" for i in range(3)], [0, 100, 200]
    >>> index = fpq.ShardedIndex.create(folder / "manifest.json", files, offsets=offsets)
    >>> index.search(X[[5, 105, 205]], k=1).ids[:, 0].tolist()
    [5, 105, 205]
    """

    n_probe = _settings.Setting(_settings.optional(_settings.integer(1)))
    rerank = _settings.Setting(_settings.optional(_settings.integer(1)))
    n_candidates = _settings.Setting(_settings.optional(_settings.integer(1)))

    _points: OperatingPoints | None  # what `tune` measured

    def __init__(
        self, manifest: str | os.PathLike[str], *, client: Any = None, replicas: int = 1, allow_partial: bool = False
    ) -> None:
        self._begin(manifest, client, replicas, allow_partial)
        self._open(manifests.read(self._path))

    def _begin(self, manifest: str | os.PathLike[str], client: Any, replicas: int, allow_partial: bool) -> None:
        super()._begin(manifest, client, replicas, allow_partial)
        self.n_probe = self.rerank = self.n_candidates = None
        self._points = None

    @classmethod
    def create(
        cls,
        manifest: str | os.PathLike[str],
        files: Sequence[str | os.PathLike[str]],
        *,
        offsets: Sequence[int] | None = None,
        client: Any = None,
        replicas: int = 1,
        allow_partial: bool = False,
    ) -> ShardedIndex:
        """Write a manifest for files of indexes, and open it.

        Parameters
        ----------
        manifest : path
            The JSON file to write.
        files : sequence of paths
            At least one file from `save`. The manifest stores paths relative to its own folder.
        offsets : sequence of int, optional
            The number to add to the ids of each file. Default: 0.
        client, replicas, allow_partial
            As in `ShardedIndex`.

        Returns
        -------
        ShardedIndex

        Raises
        ------
        FormatError, OSError, ValueError, TypeError
            As `add_shard`. An existing file `manifest` is then unchanged.
        """
        index = cls.__new__(cls)
        index._begin(manifest, client, replicas, allow_partial)
        if not len(files):
            raise ValueError("files: expected at least one shard, got none")
        offsets = [0] * len(files) if offsets is None else offsets
        if len(offsets) != len(files):
            raise ValueError(f"offsets: expected {len(files)} numbers, one per file, got {len(offsets)}")
        _files.refuse_input(manifest, files)
        content: Manifest | None = None
        for file, offset in zip(files, offsets, strict=True):
            content = manifests.with_shard(content, file, Path(manifest).parent, offset)
        assert content is not None
        index._open(content)
        content.write(manifest)
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path of the manifest."""
        if self._client is not None:
            raise TypeError(
                "ShardedIndex: an index with a client cannot be pickled: open its manifest, "
                f"{os.fspath(self._path)}, in the other process"
            )
        return _opened, (type(self), self._path, None, 1, self._settings())

    def __copy__(self) -> ShardedIndex:
        return _opened(type(self), self._path, self._client, self._replicas, self._settings())

    def _settings(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("allow_partial", "n_probe", "rerank", "n_candidates", "_points")}

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedIndex:
        return self.__copy__()

    def search(
        self,
        Q: ArrayLike,
        k: int = 10,
        *,
        n_probe: int | None = None,
        rerank: int | None = None,
        n_candidates: int | None = None,
        recall: float | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> ShardedResult:
        """The k nearest vectors of each query in all shards; ties are ordered by id.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        k : int, default 10
        n_probe : int, optional
            For shards of IVFPQIndex: number of lists to scan. For shards of E2LSHIndex: number of buckets to probe. The
            lists or buckets are the same in all shards.
        rerank : int, optional
            For shards of codes with kept vectors: re-rank the ``rerank * k`` nearest codes of all shards by exact
            distances.
        n_candidates : int, optional
            For shards of C2LSHIndex or PMLSHIndex: number of vectors that each shard compares with a query.
        recall : float, optional
            For shards of codes, instead of `n_probe` and `rerank`: the fastest setting that reaches this recall@k by
            the measurements of `tune`.
        allowed : array of ids, or boolean mask by id, optional
            The ids that may be returned.
        n_threads : int, optional
            Threads of this process, or of each worker.

        Returns
        -------
        ShardedResult
            ``distances, ids`` of shape (nq, k), or (k,) for a single query: squared L2 distances or similarities, best
            first. Missing results have distance inf (similarity -inf) and id -1.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described or does not apply to the shards, or `recall` is given and `tune` has not
            measured it.
        FormatError
            If a shard is missing or damaged, unless `allow_partial`.
        ConnectionError
            If the cluster does not respond.
        """
        given = {"n_probe": n_probe, "rerank": rerank, "n_candidates": n_candidates}
        if recall is not None:
            _require_kind("recall", self.kind, manifests.OF_CODES)
            setting = chosen(self._points, k, recall, given)
        else:
            setting = {name: getattr(self, name) if value is None else value for name, value in given.items()}
        return self._search(Q, k, allowed=allowed, n_threads=n_threads, **setting)

    def _search(
        self, Q: Any, k: int, *, n_probe: int | None = None, rerank: int | None = None,
        n_candidates: int | None = None, allowed: Any = None, n_threads: int | None = None,
    ) -> ShardedResult:  # fmt: skip
        content = self._manifest
        query, single = self._query(content, Q, allowed, n_threads)
        query = query._replace(
            k=_checks.integer("k", k, 1),
            n_probe=_effort("n_probe", n_probe, content.kind, ("IVFPQIndex", "E2LSHIndex")),
            rerank=_effort("rerank", rerank, content.kind, manifests.OF_CODES),
            n_candidates=_effort("n_candidates", n_candidates, content.kind, manifests.BY_CANDIDATES),
        )
        parts, missing = self._run(content, merge.nearest, query)
        found = merge.merge(parts, query.width)
        if found.exact is not None:
            found = merge.ranked(found.exact, found.ids)
        distances, ids = merge.padded(found.distances[:, :k], found.ids[:, :k], k)
        if query.similarity:
            negated(distances)
        result = ShardedResult(distances[0], ids[0]) if single else ShardedResult(distances, ids)
        result.missing = missing
        return result

    def range_search(
        self,
        Q: ArrayLike,
        radius: float,
        *,
        n_probe: int | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> ShardedRangeResult:
        """All vectors within a radius of each query in all shards, nearest first; ties are ordered by id.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        radius : float
            The largest squared L2 distance, or the smallest similarity for "ip" and "cosine"; inclusive.
        n_probe : int, optional
            For shards of IVFPQIndex, as in `search`.
        allowed, n_threads
            As in `search`.

        Returns
        -------
        ShardedRangeResult

        Raises
        ------
        ValueError, TypeError, FormatError, ConnectionError
            As `search`.
        """
        content = self._manifest
        query, _ = self._query(content, Q, allowed, n_threads)
        if n_probe is None and content.kind == "IVFPQIndex":
            n_probe = self.n_probe
        n_probe = _effort("n_probe", n_probe, content.kind, ("IVFPQIndex",))
        query = query._replace(radius=_checks.real("radius", radius), n_probe=n_probe)
        parts, missing = self._run(content, merge.within, query)
        lims, distances, ids = merge.merge_ranges(parts, len(query.queries))
        result = ShardedRangeResult(lims, negated(distances) if query.similarity else distances, ids)
        result.missing = missing
        return result

    def _query(self, content: Manifest, Q: Any, allowed: Any, n_threads: int | None) -> tuple[ShardQuery, bool]:
        queries, single = _checks.queries(Q, content.dim, threads.resolve(n_threads))
        query = ShardQuery(queries, METRICS[content.metric].inner_product, n_threads=n_threads)
        if allowed is None:
            return query, single
        allowed = _checks.mask_or_ids("allowed", allowed)
        if allowed.dtype != np.bool_:
            return query._replace(allowed=allowed), single
        largest = max((shard.last for shard in content.shards), default=-1)
        if allowed.ndim != 1 or len(allowed) <= largest:
            raise ValueError(
                f"allowed: expected a mask with an entry for each id up to {largest}, got shape {allowed.shape}"
            )
        return query._replace(allowed=allowed), single

    def tune(
        self,
        Q: ArrayLike,
        k: int = 10,
        recall: float = 0.95,
        *,
        X: Rows | None = None,
        neighbors: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> tuning.Tuning:
        """Measure search settings on sample queries, and set those that reach a recall.

        Shards of codes: as `IVFPQIndex.tune`, for searches in all shards. `n_probe` and `rerank` become the fastest
        that reach the recall. The measurements stay until the next `tune`.

        Shards of LSH indexes: as `E2LSHIndex.tune` and `C2LSHIndex.tune`. `n_probe` or `n_candidates`, the same for all
        shards, becomes the smallest number with which the answer of all shards reaches the recall. `n_candidates` grows
        from k to the number of rows of the largest shard.

        Parameters
        ----------
        Q : array (nq, d)
            Queries like those of the application.
        k, recall, X, neighbors, n_threads
            As in `IVFPQIndex.tune`. Shards of codes need X or neighbors unless all keep their vectors.

        Returns
        -------
        fpq.tuning.Tuning

        Raises
        ------
        ValueError, TypeError
            If no setting reaches the recall (the message gives the best), the shards are of FlatIndex, which is exact,
            or an argument is not as described. The settings are then unchanged.
        FormatError, ConnectionError
            As `search`.
        """
        content, count = self._manifest, threads.resolve(n_threads)
        if content.kind == "FlatIndex":
            raise ValueError("tune: expected shards with search settings, got FlatIndex")
        k, recall = _checks.integer("k", k, 1), tuning.recall_target(recall)
        queries, _ = _checks.queries(Q, content.dim, count)
        if not len(queries):
            raise ValueError("Q: expected at least one query, got none")
        most = min(k, len(self))
        sizes = len(self), max((shard.n for shard in content.shards), default=0)
        found = self._run(content, measuring.settings, (*sizes, most))[0]
        settings = next((each for each in found if each is not None), None)
        if settings is None:
            raise ValueError("tune: expected vectors in the shards, got no shards")
        truth = self._true_neighbors(content, queries, most, X, neighbors, count)

        def search(setting: tuning.Setting) -> Int64:
            return self._search(queries, most, n_threads=n_threads, **setting).ids

        efforts, reranks = settings
        if content.kind not in manifests.OF_CODES:
            tuned = tuning.tune(search, efforts, truth, recall)
            vars(self).update(tuned.best.setting)
            return tuned
        tuned = tuning.fastest(search, efforts, reranks, truth, recall, tuning.RECALLS)
        points = OperatingPoints.measured(k, tuned.trials) if most == k else None
        vars(self).update(tuned.best.setting, _points=points)
        return tuned

    def _true_neighbors(
        self, content: Manifest, queries: Float32, k: int, X: Any, neighbors: Any, n_threads: int
    ) -> Int64:
        """The ids of the k nearest vectors: `neighbors`, or by exact search of X or of the kept vectors."""
        if neighbors is not None:
            return true_neighbors.given(X, neighbors, len(queries), k)
        metric = METRICS[content.metric]
        if X is not None:
            prepared = metric.prepare(queries, n_threads)
            return true_neighbors.among(X, prepared, k, self.ids, content.dim, metric, n_threads)
        query = ShardQuery(queries, metric.inner_product, k, n_threads=n_threads)
        return merge.merge(self._run(content, measuring.kept, query)[0], k).ids

    def __repr__(self) -> str:
        content = self._manifest
        return f"ShardedIndex({content.kind}, metric={content.metric!r}, n={len(self)}, shards={len(content.shards)})"


def _effort(name: str, value: Any, kind: str, kinds: tuple[str, ...]) -> int | None:
    """A checked setting of searches in shards of these kinds; None stays None."""
    if value is None:
        return None
    _require_kind(name, kind, kinds)
    return _checks.integer(name, value, 1)


def _require_kind(name: str, kind: str, kinds: Sequence[str]) -> None:
    if kind not in kinds:
        raise ValueError(f"{name}: expected shards of {' or '.join(kinds)}, got {kind}")


def _opened(cls: type[ShardedIndex], path: Path, client: Any, replicas: int, settings: dict[str, Any]) -> ShardedIndex:
    index = cls(path, client=client, replicas=replicas, allow_partial=settings["allow_partial"])
    vars(index).update(settings)
    return index
