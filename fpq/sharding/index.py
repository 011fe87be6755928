"""One index in many files: search all shards, merge the best exactly."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fpq import _checks, _settings, storage, threads
from fpq.indexes.base import RangeResult, SearchResult
from fpq.indexes.parts.lock import uninterrupted
from fpq.metric import METRICS
from fpq.sharding import executor as executors
from fpq.sharding import manifest as manifests
from fpq.sharding import merge
from fpq.sharding.executor import LocalShards, ShardExecutor, Task
from fpq.sharding.manifest import Manifest
from fpq.sharding.merge import ShardQuery
from fpq.storage import FormatError


class ShardedResult(SearchResult):
    """A `SearchResult`, a pair ``distances, ids``, that knows which shards it lacks.

    Attributes
    ----------
    missing : dict
        Why, by the file names of shards that were not searched. Empty unless ``allow_partial`` is on.
    """

    missing: dict[str, str]


class ShardedRangeResult(RangeResult):
    """A `RangeResult` that knows which shards it lacks: `missing` is as in `ShardedResult`."""

    missing: dict[str, str]


class ShardedIndex(_settings.Checked):
    """An index in many files (shards), searched as if it were one.

    Shards are files of FlatIndex, PQIndex or IVFPQIndex objects with the same parameters and codebooks and separate
    ranges of ids; a manifest names them. Results are those of one index that holds all vectors: the same ids and the
    same float32 distances, whatever the number of shards. (Limits of `open_indexing` and `list_capacity` hold in each
    shard, so with these the codes themselves may differ from those of one index.)

    Shards are mapped into memory: opening takes milliseconds, and pages come from the disk when they are first used.
    Any number of threads may search, also while another one adds and drops shards.

    Copies, and objects that come from a pickle, are opened anew from the path of the manifest, with `allow_partial` as
    it was: they hold what the manifest then says, and a process that gets one must see the files under the same path.
    A copy has the same client; an index with a client cannot be pickled, as the client stays in its process.

    Parameters
    ----------
    manifest : path
        As written by `ShardedIndex.create` or `fpq.dask.build`.
    client : dask.distributed.Client, optional
        Search on its cluster: each worker holds its share of the shards, queries go out once, and the best come back.
        Workers must see the manifest's folder under the same path.
    allow_partial : bool, default False
        Search on when shards are missing or damaged, and name them in the result.

    Raises
    ------
    FormatError
        If the manifest is of another version or not well-formed; or, unless `allow_partial`, if a shard is missing,
        damaged, another file than the manifest means, or of other codebooks. The message names all such shards.
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

    def _open(self, about: Manifest, client: Any) -> None:
        self._client = client
        folder = self._path.parent
        self._executor: ShardExecutor = LocalShards(folder) if client is None else _cluster(client, folder)
        self._run(about, executors.open_only, None)
        self._manifest = about

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
        """Write a manifest for files that `save` has written, and open it.

        Parameters
        ----------
        manifest : path
            The JSON file to write.
        files : sequence of paths
            At least one. The manifest keeps their paths from its own folder.
        offsets : sequence of int, optional
            What to add to the ids in each file. Default: 0.
        client, allow_partial
            As in `ShardedIndex`.

        Raises
        ------
        FormatError, OSError, ValueError, TypeError
            As `add_shard`. What stood under `manifest` is then as before.
        """
        index = cls.__new__(cls)
        index._begin(manifest, allow_partial)
        if not len(files):
            raise ValueError("files: expected at least one shard, got none")
        offsets = [0] * len(files) if offsets is None else offsets
        if len(offsets) != len(files):
            raise ValueError(f"offsets: expected {len(files)} numbers for {len(files)} files, got {len(offsets)}")
        storage.refuse_input(manifest, files)
        about: Manifest | None = None
        for file, offset in zip(files, offsets, strict=True):
            about = _with_shard(about, file, Path(manifest).parent, offset)
        assert about is not None
        index._open(about, client)
        about.write(manifest)
        return index

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle goes through the path of the manifest."""
        if self._client is not None:
            raise TypeError(
                "ShardedIndex: an index with a client cannot be pickled: open its manifest, "
                f"{os.fspath(self._path)}, where it is wanted"
            )
        return _opened, (type(self), self._path, None, self.allow_partial)

    def __copy__(self) -> ShardedIndex:
        return _opened(type(self), self._path, self._client, self.allow_partial)

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedIndex:
        return self.__copy__()

    @property
    def kind(self) -> str:
        """The class of the shards' indexes."""
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
        """The files of the shards, as the manifest names them, in the order of their ids."""
        return [shard.file for shard in self._manifest.shards]

    @property
    def nbytes(self) -> int:
        """Bytes of the shards' arrays, in files or in memory. Shards that are missing do not count."""
        return sum(self._run(self._manifest, executors.nbytes, None)[0])

    def __len__(self) -> int:
        return sum(shard.n for shard in self._manifest.shards)

    def search(
        self,
        Q: Any,
        k: int = 10,
        *,
        n_probe: int | None = None,
        rerank: int | None = None,
        allowed: Any = None,
        n_threads: int | None = None,
    ) -> ShardedResult:
        """The k nearest of each query in all shards; ties by id.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        k : int, default 10
        n_probe : int, optional
            For shards of IVFPQIndex: lists to look into, the same in all shards.
        rerank : int, optional
            For shards that keep vectors: score the ``rerank * k`` nearest codes of all shards together again.
        allowed : array of ids, or boolean mask by id, optional
            Only these may be returned.
        n_threads : int, optional
            Threads of this process, or of each worker.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described or the shards do not know it.
        FormatError
            If a shard has gone missing, unless `allow_partial`.
        ConnectionError
            If the cluster does not answer.
        """
        about = self._manifest
        query, single = self._query(about, Q, n_probe, allowed, n_threads)
        query = query._replace(k=_checks.integer("k", k, 1))
        if rerank is not None:
            if about.kind == "FlatIndex":
                raise ValueError("rerank: shards of FlatIndex give exact distances already")
            query = query._replace(rerank=_checks.integer("rerank", rerank, 1))
        parts, missing = self._run(about, merge.nearest, query)
        found = merge.merge(parts, query.width)
        if found.exact is not None:
            found = merge.ranked(found.exact, found.ids)
        distances, ids = merge.padded(found.distances[:, :k], found.ids[:, :k], k)
        if query.similarity:
            np.negative(distances, out=distances)
        result = ShardedResult(distances[0], ids[0]) if single else ShardedResult(distances, ids)
        result.missing = missing
        return result

    def range_search(
        self, Q: Any, radius: float, *, n_probe: int | None = None, allowed: Any = None, n_threads: int | None = None
    ) -> ShardedRangeResult:
        """All vectors within a radius of each query in all shards, nearest first, ties by id.

        Parameters
        ----------
        Q : array (nq, d) or (d,)
        radius : float
            Squared L2 distances up to and including it; for "ip" and "cosine" similarities from it on.
        n_probe, allowed, n_threads
            As in `search`.

        Raises
        ------
        ValueError, TypeError, FormatError, ConnectionError
            As `search`.
        """
        about = self._manifest
        query, _ = self._query(about, Q, n_probe, allowed, n_threads)
        query = query._replace(radius=_checks.real("radius", radius))
        parts, missing = self._run(about, merge.within, query)
        lims, distances, ids = merge.merge_ranges(parts, len(query.queries))
        result = ShardedRangeResult(lims, -distances if query.similarity else distances, ids)
        result.missing = missing
        return result

    def _query(
        self, about: Manifest, Q: Any, n_probe: Any, allowed: Any, n_threads: int | None
    ) -> tuple[ShardQuery, bool]:
        queries, single = _checks.queries(Q, about.dim, threads.resolve(n_threads))
        if n_probe is not None:
            n_probe = _checks.integer("n_probe", n_probe, 1)
            if about.kind != "IVFPQIndex":
                raise ValueError(f"n_probe: shards of {about.kind} have no lists")
        query = ShardQuery(queries, METRICS[about.metric].inner_product, n_probe=n_probe, n_threads=n_threads)
        if allowed is None:
            return query, single
        allowed = _checks.mask_or_ids("allowed", allowed)
        if allowed.dtype != np.bool_:
            return query._replace(allowed=allowed), single
        largest = max((shard.last for shard in about.shards), default=-1)
        if allowed.ndim != 1 or len(allowed) <= largest:
            raise ValueError(
                f"allowed: expected a mask with an entry for each id up to {largest}, got shape {allowed.shape}"
            )
        return query._replace(allowed=allowed), single

    def _run(self, about: Manifest, task: Task, query: Any) -> tuple[list[Any], dict[str, str]]:
        """The results of a task, and why shards are missing, by their files, if that is allowed."""
        answers = self._executor.run(about, task, query)
        missing = {file: why for _, some in answers for file, why in some.items()}
        if missing and not self.allow_partial:
            reasons = "; ".join(f"{file}: {why}" for file, why in missing.items())
            raise FormatError(
                f"{self._path}: {len(missing)} of {len(about.shards)} shards cannot be used (allow_partial=True "
                f"searches the others): {reasons}"
            )
        return [answer for answer, _ in answers], missing

    def add_shard(self, file: str | os.PathLike[str], *, offset: int = 0) -> ShardedIndex:
        """Take in a file that `save` has written; the manifest on disk is written anew. Searches go on meanwhile.

        Parameters
        ----------
        file : path
        offset : int, default 0
            What to add to the ids in the file.

        Raises
        ------
        FormatError
            If it is not a file of an index with the parameters and codebooks of the other shards.
        ValueError, TypeError
            If it is empty, or its range of ids overlaps that of another shard.
        OSError
            If it cannot be read, or the manifest not be written. In all cases the index is as before.
        """
        with self._changing:
            self._change(_with_shard(self._manifest, file, self._path.parent, offset))
        return self

    def drop_shard(self, file: str) -> int:
        """Drop a shard, named as in `shards`; the manifest on disk is written anew, the shard's file stays.

        Returns
        -------
        int
            How many vectors it held.

        Raises
        ------
        ValueError
            If there is no such shard.
        """
        with self._changing:
            left = [shard for shard in self._manifest.shards if shard.file != file]
            n = len(self) - sum(shard.n for shard in left)
            if not n:
                raise ValueError(f"file: expected one of the shards {', '.join(self.shards)}, got {file!r}")
            self._change(self._manifest.with_shards(left))
        return n

    def _change(self, about: Manifest) -> None:
        with uninterrupted():  # on the disk and here, or neither
            about.write(self._path)
            self._manifest = about
        self._executor.keep(about.shards)

    def verify(self) -> None:
        """Check all that the shards hold, as `fpq.load` does without mmap.

        Raises
        ------
        FormatError
            If a shard is damaged.
        """
        self._run(self._manifest, executors.verify, None)

    def __repr__(self) -> str:
        about = self._manifest
        return f"ShardedIndex({about.kind}, metric={about.metric!r}, n={len(self)}, shards={len(about.shards)})"


def _opened(cls: type[ShardedIndex], path: Path, client: Any, allow_partial: bool) -> ShardedIndex:
    return cls(path, client=client, allow_partial=allow_partial)


def _with_shard(about: Manifest | None, file: str | os.PathLike[str], folder: Path, offset: Any) -> Manifest:
    """The manifest (None: a new one) with one more shard."""
    shard, belongs = manifests.describe(file, folder, _checks.integer("offset", offset, 0))
    if about is None:
        return belongs.with_shards([shard])
    if belongs.learned != about.learned:
        raise FormatError(f"{os.fspath(file)}: expected the codebooks and parameters of the other shards")
    return about.with_shards([*about.shards, shard])


def _cluster(client: Any, folder: Path) -> ShardExecutor:
    from fpq.dask.serve import Cluster

    return Cluster(client, folder)
