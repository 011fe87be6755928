"""The shards of a sharded index: opening them, their rows by id, adding and removing."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _settings
from fpq._checks import Float32, Int64
from fpq.indexes.parts.lock import uninterrupted
from fpq.sharding import executor as executors
from fpq.sharding import manifest as manifests
from fpq.sharding import rows
from fpq.sharding.executor import Answer, LocalShards, ShardExecutor, Task
from fpq.sharding.manifest import Manifest
from fpq.storage import FormatError

S = TypeVar("S", bound="Shards")


class Shards(_settings.Checked):
    """The shards of a manifest."""

    allow_partial = _settings.Setting(_settings.flag)

    def _begin(self, manifest: str | os.PathLike[str], client: Any, replicas: int, allow_partial: bool) -> None:
        self.allow_partial = allow_partial
        self._client, self._replicas = client, _checks.integer("replicas", replicas, 1)
        if client is None and self._replicas > 1:
            raise ValueError(f"replicas: expected 1 without a client, got {replicas}")
        self._path = Path(os.path.abspath(manifest))
        self._changing = threading.Lock()

    def _open(self, content: Manifest) -> None:
        folder = self._path.parent
        self._executor: ShardExecutor = (
            LocalShards(folder) if self._client is None else _cluster(self._client, folder, self._replicas)
        )
        self._checked(content, self._executor.open(content))
        self._manifest = content

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

    def _run(self, content: Manifest, task: Task, query: Any) -> tuple[list[Any], dict[str, str]]:
        """The results of a task, and the errors of missing shards by file; FormatError unless `allow_partial`."""
        return self._checked(content, self._executor.run(content, task, query))

    def _checked(self, content: Manifest, answers: list[Answer]) -> tuple[list[Any], dict[str, str]]:
        missing = {file: error for _, errors in answers for file, error in errors.items()}
        if missing and not self.allow_partial:
            reasons = "; ".join(f"{file}: {error}" for file, error in missing.items())
            raise FormatError(
                f"{self._path}: {len(missing)} of {len(content.shards)} shards cannot be used (allow_partial=True "
                f"searches the others): {reasons}"
            )
        return [answer for answer, _ in answers], missing

    @property
    def ids(self) -> Int64:
        """The ids in all shards, int64 (n,), in arbitrary order."""
        parts = [ids for part in self._run(self._manifest, rows.ids, None)[0] for ids in part]
        return np.concatenate([np.empty(0, np.int64), *parts])

    def reconstruct(self, ids: ArrayLike) -> Float32:
        """The vectors with these ids, float32 (len(ids), d): kept vectors, or reconstructions from the codes.

        Raises
        ------
        ValueError, TypeError
            If an id is not in one of the shards, or ids are not as described.
        FormatError, ConnectionError
            As `search`.
        """
        content, wanted = self._manifest, _checks.id_array("ids", ids)
        out, missing = np.empty((len(wanted), content.dim), np.float32), np.ones(len(wanted), np.bool_)
        for part in self._run(content, rows.vectors, wanted)[0]:
            for places, vectors in part:
                out[places], missing[places] = vectors, False
        if missing.any():
            raise ValueError(f"ids: expected ids in the index, got {wanted[missing][0]}")
        return out

    def remove(self, ids: ArrayLike) -> int:
        """Remove the vectors with these ids, and rewrite the manifest. Other threads may search meanwhile.

        Each shard that holds some of the ids is read, and written to a new file beside the former one: remove many ids
        in one call. The former files stay, for processes that have the former manifest open. A shard without vectors
        is dropped. Ids that are not in the index are ignored.

        Parameters
        ----------
        ids : int array (n,)

        Returns
        -------
        int
            Number of removed vectors.

        Raises
        ------
        ValueError, TypeError
            If ids are not as described.
        FormatError, OSError
            If a shard that may hold an id is missing or damaged, or a file cannot be written. After an error the index
            is unchanged.
        RuntimeError
            If another process has changed the manifest (see `reload`).
        """
        wanted, folder = np.unique(_checks.id_array("ids", ids)), self._path.parent
        with self._changing:
            before = self._manifest
            content = rows.without(before, folder, wanted)
            try:
                self._change(content)
            except BaseException:
                if self._manifest is before:
                    rows.delete(folder, set(content.shards) - set(before.shards))
                raise
        return sum(shard.n for shard in before.shards) - sum(shard.n for shard in content.shards)

    def add_shard(self: S, file: str | os.PathLike[str], *, offset: int = 0) -> S:
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
        RuntimeError
            If another process has changed the manifest (see `reload`).
        """
        with self._changing:
            self._change(manifests.with_shard(self._manifest, file, self._path.parent, offset))
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
        RuntimeError
            If another process has changed the manifest (see `reload`).
        """
        with self._changing:
            others = [shard for shard in self._manifest.shards if shard.file != file]
            n = len(self) - sum(shard.n for shard in others)
            if not n:
                raise ValueError(f"file: expected one of the shards {', '.join(self.shards)}, got {file!r}")
            self._change(self._manifest.with_shards(others))
        return n

    def reload(self) -> bool:
        """Take up the shards of the manifest as it is on the disk now, after another process has replaced it.

        The shards are opened first. Other threads may search meanwhile: a search sees the former shards or the new
        ones, never a mix.

        Returns
        -------
        bool
            Whether the shards have changed.

        Raises
        ------
        FormatError
            If the manifest is not well-formed or is that of an index with other parameters or codebooks (open it as a
            new `ShardedIndex`), or as for `ShardedIndex` if shards cannot be used. The index is then unchanged.
        OSError, ConnectionError
            If the manifest cannot be read, or the cluster does not respond.

        Examples
        --------
        >>> import fpq, numpy as np, pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> fpq.FlatIndex().add(np.eye(3)).save(folder / "a.fpq")
        >>> fpq.FlatIndex().add(np.eye(3) + 1).save(folder / "b.fpq")
        >>> builder = fpq.ShardedIndex.create(folder / "manifest.json", [folder / "a.fpq"])
        >>> server = fpq.ShardedIndex(folder / "manifest.json")
        >>> builder = builder.add_shard(folder / "b.fpq", offset=3)
        >>> server.reload(), len(server), server.reload()
        (True, 6, False)
        """
        with self._changing:
            content = manifests.read(self._path)
            if content._replace(shards=()) != self._manifest._replace(shards=()):
                raise FormatError(f"{self._path}: expected the parameters and codebooks of the open index, got others")
            changed = content != self._manifest
            if changed:
                self._checked(content, self._executor.open(content))
                self._manifest = content
                self._executor.keep(content.shards)
        return changed

    def _change(self, content: Manifest) -> None:
        if manifests.read(self._path) != self._manifest:
            raise RuntimeError(f"{self._path}: another process has changed the manifest: call reload() first")
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


def _cluster(client: Any, folder: Path, replicas: int) -> ShardExecutor:
    from fpq.dask.serve import Cluster

    return Cluster(client, folder, replicas)
