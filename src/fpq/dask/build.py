"""Build of a sharded index: each block of rows becomes a shard."""

from __future__ import annotations

import copy
import functools
import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from fpq import _checks, _format, progress, storage, threads
from fpq._checks import Array
from fpq.blocks import BlockInfo
from fpq.dask import blocks
from fpq.indexes.base import Index
from fpq.sharding import manifest
from fpq.sharding.manifest import Manifest, Shard
from fpq.storage import FormatError

MANIFEST = "manifest.json"


def build(index: Any, X: Any, folder: str | os.PathLike[str], *, client: Any = None, shard_rows: int = 1 << 20) -> Path:
    """Encode rows into shards, block by block, and write their manifest for `fpq.ShardedIndex`.

    Row i of X gets the id i. A shard is an ordinary index file, written atomically, in which ids start at 0; the
    manifest stores the number of its first row. The name of a shard contains a digest of the index and of the rows. A
    repeated build with the same index and rows verifies the existing shards and encodes only the missing ones. The
    manifest is written after all shards; an older manifest stays until then. Shards without a manifest may be deleted.

    Parameters
    ----------
    index : FlatIndex, PQIndex, IVFPQIndex, E2LSHIndex, C2LSHIndex or PMLSHIndex
        Trained and empty; it is not changed. The limits of `open_indexing` and `list_capacity` apply within each shard.
    X : Dask array (n, d), memory-mapped or other array (n, d), or iterable of arrays
        Each chunk of rows of a Dask array becomes a shard (chunks of columns are joined); the workers of `client` or
        Dask's current scheduler encode them. An iterable is read once, in this process, and each item becomes a shard.
        Only some blocks are in memory at a time. Empty blocks are skipped.
    folder : path
        Created if missing. Workers must see the folder under the same path.
    client : dask.distributed.Client, optional
        The cluster whose workers encode. Default: the current client, for a Dask array. Workers open a memory-mapped
        file by its path, unless the array is a view, has mode "c", or the path belongs to another file by now.
    shard_rows : int, default 2**20
        Rows per shard for an X without blocks.

    Returns
    -------
    Path
        The path of the manifest.

    Raises
    ------
    ValueError, TypeError
        If the index is not trained or not empty, or X is not as described. If a block has another width or element type
        than the others, or contains NaN or infinity, the error names the partition. Finished shards stay.
    ConnectionError
        If the connection to the scheduler is lost.
    OSError
        If a file cannot be written.

    Examples
    --------
    >>> import numpy as np, fpq, fpq.dask, tempfile
    >>> blocks = [np.random.default_rng(i).normal(size=(500, 8)).astype(np.float32) for i in range(4)]
    >>> index = fpq.PQIndex(m=4, nbits=4)
    >>> manifest = fpq.dask.build(fpq.dask.fit(index, blocks), blocks, tempfile.mkdtemp())
    >>> fpq.ShardedIndex(manifest)
    ShardedIndex(PQIndex, metric='l2', n=2000, shards=4)
    """
    if not isinstance(index, Index) or getattr(index, "_kind", None) not in manifest.KINDS:
        raise TypeError(f"index: expected one of {', '.join(manifest.KINDS)}, got {type(index).__name__}")
    if not index.is_trained or len(index):
        raise ValueError(f"index: expected a trained index without vectors, got {index!r}")
    source = blocks.of(X, client, _checks.integer("shard_rows", shard_rows, 1))
    if index.dim is not None and source.dim not in (None, index.dim):
        raise ValueError(f"X: expected vectors of dimension {index.dim}, got dimension {source.dim}")
    target = Path(os.path.abspath(folder))
    target.mkdir(parents=True, exist_ok=True)
    task = functools.partial(encode, index, _digest_of(index), target)
    with progress.call("dask.build", index.verbose):
        encoded = source.run("encode", task)
    encoded = [result for result in encoded if result is not None]
    if not encoded:
        raise ValueError("X: expected at least one row, got none")
    complete: Manifest = encoded[0][1].with_shards(shard for shard, _ in encoded)
    complete.write(target / MANIFEST)
    return target / MANIFEST


def encode(index: Index, digest: bytes, folder: Path, block: Any, info: BlockInfo) -> tuple[Shard, Manifest] | None:
    """Write the shard of a block, unless it exists, and return its entry in the manifest; None for an empty block."""
    x = info.finite(info.shaped(block))
    if not len(x):
        return None
    path = folder / f"shard-{info.start:012d}-{_name(digest, x)}.fpq"
    try:
        storage.load(path, mmap=True).verify()
    except (FileNotFoundError, FormatError):
        shard: Any = copy.copy(index)
        shard.verbose = False
        shard.add(x).save(path)
    return manifest.describe(path, folder, info.start)


def _digest_of(index: Index) -> bytes:
    digest = blake2b()
    for piece in index._pieces():
        digest.update(piece)
    return digest.digest()


def _name(digest: bytes, x: Array) -> str:
    """A digest of 16 hexadecimal digits of the digest of the index and the rows of the shard."""
    name = blake2b(digest, digest_size=8)
    name.update(repr((x.dtype.str, x.shape)).encode())
    with _format.Digests(threads.resolve(None)) as digests:
        name.update(digests.end(digests.begin(_format.as_bytes(np.ascontiguousarray(x)))).encode())
    return name.hexdigest()
