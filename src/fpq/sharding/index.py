"""An index in several files: search in all shards, exact merge of the results."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _files, _settings, threads
from fpq.indexes.base import RangeResult, SearchResult
from fpq.indexes.parts.lock import uninterrupted
from fpq.metric import METRICS, negated
from fpq.sharding import executor as executors
from fpq.sharding import manifest as manifests
from fpq.sharding import merge
from fpq.sharding.executor import LocalShards, ShardExecutor, Task
from fpq.sharding.manifest import Manifest
from fpq.sharding.merge import ShardQuery
from fpq.storage import FormatError


class ShardedResult(SearchResult):
    """A `SearchResult` (``distances, ids``) with the names of missing shards.

    Attributes
    ----------
    missing : dict
        The errors of shards that were not searched, by file name. Always empty without ``allow_partial``.
    """

    missing: dict[str, str]


class ShardedRangeResult(RangeResult):
    """A `RangeResult` with the names of missing shards: `missing` is as in `ShardedResult`."""

    missing: dict[str, str]


class ShardedIndex(_settings.Checked):
    """An index in several files (shards) that is searched like a single index.

    Shards are files of FlatIndex, PQIndex or IVFPQIndex objects with the same parameters and codebooks and disjoint
    ranges of ids; a manifest lists them. For any number of shards, a search returns the same ids and the same float32
    distances as one index of all vectors. (The limits of `open_indexing` and `list_capacity` apply within each shard,
    so the codes themselves may differ from those of one index.)

    Shards are mapped into memory: opening takes milliseconds, and a page is read from the disk when it is first used.
    Any number of threads may search, also while another thread adds and drops shards.

    A copy and an unpickled object open the manifest again, with the same `allow_partial`. They have the shards that the
    manifest then lists, and their process must see the files under the same path. A copy has the same client; an index
    with a client cannot be pickled.

    Parameters
    ----------
    manifest : path
        A file from `ShardedIndex.create` or `fpq.dask.build`.
    client : dask.distributed.Client, optional
        Search on the cluster of the client: each worker holds a part of the shards, receives the queries and returns
        its nearest vectors. Workers must see the folder of the manifest under the same path.
    allow_partial : bool, default False
        Skip missing and damaged shards, and name them in the result.

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

    allow_partial = _settings.Setting(_settings.flag)

    def __init__(self, manifest: str | os.PathLike[str], *, client: Any = None, allow_partial: bool = False) -> None:
        self._begin(manifest, allow_partial)
        self._open(manifests.read(self._path), client)

    def _begin(self, manifest: str | os.PathLike[str], allow_partial: bool) -> None:
        self.allow_partial = allow_partial
        self._path = Path(os.path.abspath(manifest))
        self._changing = threading.Lock()

    def _open(self, content: Manifest, client: Any) -> None:
        self._client = client
        folder = self._path.parent
        self._executor: ShardExecutor = LocalShards(folder) if client is None else _cluster(client, folder)
        self._run(content, executors.open_only, None)
        self._manifest = content

    @classmethod
    def create(
        cls,
        manifest: str | os.PathLike[str],
        files: Sequence[str | os.PathLike[str]],
        *,
        offsets: Sequence[int] | None = None,
        client: Any = None,
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
        client, allow_partial
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
        index._begin(manifest, allow_partial)
        if not len(files):
            raise ValueError("files: expected at least one shard, got none")
        offsets = [0] * len(files) if offsets is None else offsets
        if len(offsets) != len(files):
            raise ValueError(f"offsets: expected {len(files)} numbers, one per file, got {len(offsets)}")
        _files.refuse_input(manifest, files)
        content: Manifest | None = None
        for file, offset in zip(files, offsets, strict=True):
            content = _with_shard(content, file, Path(manifest).parent, offset)
        assert content is not None
        index._open(content, client)
        content.write(manifest)
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the path of the manifest."""
        if self._client is not None:
            raise TypeError(
                "ShardedIndex: an index with a client cannot be pickled: open its manifest, "
                f"{os.fspath(self._path)}, in the other process"
            )
        return _opened, (type(self), self._path, None, self.allow_partial)

    def __copy__(self) -> ShardedIndex:
        return _opened(type(self), self._path, self._client, self.allow_partial)

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedIndex:
        return self.__copy__()

    @property
    def kind(self) -> str:
        """The class name of the indexes in the shards."""
        return self._manifest.kind

    @property
    def metric(self) -> str:
        """The metric: "l2", "ip" or "cosine"."""
        return self._manifest.metric

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._manifest.dim

    @property
    def shards(self) -> list[str]:
        """The files of the shards, relative to the folder of the manifest, in the order of their ids."""
        return [shard.file for shard in self._manifest.shards]

    @property
    def nbytes(self) -> int:
        """The size of the arrays of all shards in bytes, in files or in memory, without missing shards."""
        return sum(self._run(self._manifest, executors.nbytes, None)[0])

    def __len__(self) -> int:
        return sum(shard.n for shard in self._manifest.shards)

    def __contains__(self, number: object) -> bool:
        """Whether an id is in one of the shards; as for the indexes, anything but an integer is not.

        Raises
        ------
        TypeError
            For a list or an array of ids.
        FormatError
            If the shard whose range contains the id is missing or damaged, unless `allow_partial`.
        ConnectionError
            If the cluster does not respond.
        """
        wanted = _checks.one_id(number)
        if wanted is None:
            return False
        value, content = int(wanted[0]), self._manifest
        near = content.with_shards(shard for shard in content.shards if shard.first <= value <= shard.last)
        return bool(near.shards) and any(self._run(near, executors.holds, value)[0])

    def search(
        self,
        Q: ArrayLike,
        k: int = 10,
        *,
        n_probe: int | None = None,
        rerank: int | None = None,
        allowed: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> ShardedResult:
        """The k nearest vectors of each query in all shards; ties are ordered by id.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        k : int, default 10
        n_probe : int, optional
            For shards of IVFPQIndex: number of lists to scan, the same lists in all shards.
        rerank : int, optional
            For shards with kept vectors: re-rank the ``rerank * k`` nearest codes of all shards by exact distances.
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
            If an argument is not as described or does not apply to the shards.
        FormatError
            If a shard is missing or damaged, unless `allow_partial`.
        ConnectionError
            If the cluster does not respond.
        """
        content = self._manifest
        query, single = self._query(content, Q, n_probe, allowed, n_threads)
        query = query._replace(k=_checks.integer("k", k, 1))
        if rerank is not None:
            if content.kind == "FlatIndex":
                raise ValueError(
                    "rerank: expected shards of PQIndex or IVFPQIndex, got FlatIndex, whose distances are exact"
                )
            query = query._replace(rerank=_checks.integer("rerank", rerank, 1))
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
        n_probe, allowed, n_threads
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
        query, _ = self._query(content, Q, n_probe, allowed, n_threads)
        query = query._replace(radius=_checks.real("radius", radius))
        parts, missing = self._run(content, merge.within, query)
        lims, distances, ids = merge.merge_ranges(parts, len(query.queries))
        result = ShardedRangeResult(lims, negated(distances) if query.similarity else distances, ids)
        result.missing = missing
        return result

    def _query(
        self, content: Manifest, Q: Any, n_probe: Any, allowed: Any, n_threads: int | None
    ) -> tuple[ShardQuery, bool]:
        queries, single = _checks.queries(Q, content.dim, threads.resolve(n_threads))
        if n_probe is not None:
            n_probe = _checks.integer("n_probe", n_probe, 1)
            if content.kind != "IVFPQIndex":
                raise ValueError(f"n_probe: expected shards of IVFPQIndex, got {content.kind}")
        query = ShardQuery(queries, METRICS[content.metric].inner_product, n_probe=n_probe, n_threads=n_threads)
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

    def _run(self, content: Manifest, task: Task, query: Any) -> tuple[list[Any], dict[str, str]]:
        """The results of a task, and the errors of missing shards by file; FormatError unless `allow_partial`."""
        answers = self._executor.run(content, task, query)
        missing = {file: error for _, errors in answers for file, error in errors.items()}
        if missing and not self.allow_partial:
            reasons = "; ".join(f"{file}: {error}" for file, error in missing.items())
            raise FormatError(
                f"{self._path}: {len(missing)} of {len(content.shards)} shards cannot be used (allow_partial=True "
                f"searches the others): {reasons}"
            )
        return [answer for answer, _ in answers], missing

    def add_shard(self, file: str | os.PathLike[str], *, offset: int = 0) -> ShardedIndex:
        """Add the file of an index as a shard, and rewrite the manifest. Other threads may search meanwhile.

        Parameters
        ----------
        file : path
        offset : int, default 0
            The number to add to the ids of the file.

        Raises
        ------
        FormatError
            If the file is not an index with the parameters and codebooks of the other shards.
        ValueError, TypeError
            If the index is empty, or its range of ids overlaps that of another shard.
        OSError
            If the file cannot be read or the manifest cannot be written. After an error the index is unchanged.
        """
        with self._changing:
            self._change(_with_shard(self._manifest, file, self._path.parent, offset))
        return self

    def drop_shard(self, file: str) -> int:
        """Drop a shard by its name in `shards`, and rewrite the manifest. The file of the shard stays.

        Returns
        -------
        int
            The number of vectors in the shard.

        Raises
        ------
        ValueError
            If `file` is not in `shards`.
        """
        with self._changing:
            others = [shard for shard in self._manifest.shards if shard.file != file]
            n = len(self) - sum(shard.n for shard in others)
            if not n:
                raise ValueError(f"file: expected one of the shards {', '.join(self.shards)}, got {file!r}")
            self._change(self._manifest.with_shards(others))
        return n

    def _change(self, content: Manifest) -> None:
        with uninterrupted():  # the file and the object change together
            content.write(self._path)
            self._manifest = content
        self._executor.keep(content.shards)

    def verify(self) -> None:
        """Check the arrays of all shards, as `fpq.load` does without mmap.

        Raises
        ------
        FormatError
            If a shard is damaged.
        """
        self._run(self._manifest, executors.verify, None)

    def __repr__(self) -> str:
        content = self._manifest
        return f"ShardedIndex({content.kind}, metric={content.metric!r}, n={len(self)}, shards={len(content.shards)})"


def _opened(cls: type[ShardedIndex], path: Path, client: Any, allow_partial: bool) -> ShardedIndex:
    return cls(path, client=client, allow_partial=allow_partial)


def _with_shard(content: Manifest | None, file: str | os.PathLike[str], folder: Path, offset: Any) -> Manifest:
    """The manifest `content` (None: a new one) with one more shard."""
    shard, belongs = manifests.describe(file, folder, _checks.integer("offset", offset, 0))
    if content is None:
        return belongs.with_shards([shard])
    if belongs.learned != content.learned:
        raise FormatError(f"{os.fspath(file)}: expected the codebooks and parameters of the other shards")
    return content.with_shards([*content.shards, shard])


def _cluster(client: Any, folder: Path) -> ShardExecutor:
    from fpq.dask.serve import Cluster

    return Cluster(client, folder)
