"""Building a sharded index: each block of rows becomes a file."""

from __future__ import annotations

import copy
import functools
import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from fpq import _checks, _format, storage, threads
from fpq._checks import Array
from fpq.blocks import BlockInfo
from fpq.dask import blocks
from fpq.indexes.base import Index
from fpq.sharding import manifest
from fpq.sharding.manifest import Manifest, Shard
from fpq.storage import FormatError

MANIFEST = "manifest.json"


def build(index: Any, X: Any, folder: str | os.PathLike[str], *, client: Any = None, shard_rows: int = 1 << 20) -> Path:
    """Encode rows into shards, block by block, and write their manifest: open it with `fpq.ShardedIndex`.

    Row i of X gets the id i. A shard is an ordinary file, written atomically; in it ids count from its first row, whose
    number the manifest holds. Its name holds a digest of the index and of the rows: a build that is started again, with
    the same index and rows, checks the shards that are there and goes on with what is missing. The manifest is written
    when all shards are there; until then an older one stays as it is. Shards that no manifest names may be deleted.

    Parameters
    ----------
    index : FlatIndex, PQIndex or IVFPQIndex
        Trained and empty; it is not changed. With `open_indexing` or `list_capacity`, limits hold in each shard.
    X : Dask array (n, d), memory-mapped or other array (n, d), or iterable of arrays
        Of a Dask array each chunk of rows becomes a shard (columns are brought together first); Dask's scheduler in use
        encodes them, a cluster's workers if there is a client. An iterable is read once, here; each item becomes a
        shard. Only some blocks are in memory at a time. Empty blocks are passed over.
    folder : path
        Made if it is not there. Workers must see it under the same path.
    client : dask.distributed.Client, optional
        Whose workers encode. Default: the one in use, for a Dask array. They also read memory-mapped files, by path,
        if the file holds what the array does: not of a view, of mode "c", or when another file has taken the name.
    shard_rows : int, default 2**20
        Rows of a shard where X has no blocks.

    Returns
    -------
    Path
        Of the manifest.

    Raises
    ------
    ValueError, TypeError
        If the index is not trained or not empty, or X is not as described; for a block of another width or element type
        than the others, or with NaN or infinity, the error names the partition. Shards written so far stay.
    ConnectionError
        If the scheduler goes away.
    OSError
        If a shard cannot be written.

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
    made = source.run("encode", task, verbose=getattr(index, "verbose", False))
    made = [each for each in made if each is not None]
    if not made:
        raise ValueError("X: expected at least one row, got none")
    whole: Manifest = made[0][1].with_shards(shard for shard, _ in made)
    whole.write(target / MANIFEST)
    return target / MANIFEST


def encode(index: Index, digest: bytes, folder: Path, block: Any, where: BlockInfo) -> tuple[Shard, Manifest] | None:
    """Write the shard of a block, unless it is there: what the manifest is to say of it. None for an empty block."""
    x = where.finite(where.shaped(block))
    if not len(x):
        return None
    path = folder / f"shard-{where.start:012d}-{_name(digest, x)}.fpq"
    try:
        storage.load(path, mmap=True).verify()
    except (FileNotFoundError, FormatError):
        shard: Any = copy.copy(index)
        shard.add(x).save(path)
    return manifest.describe(path, folder, where.start)


def _digest_of(index: Index) -> bytes:
    digest = blake2b()
    for piece in index._pieces():
        digest.update(piece)
    return digest.digest()


def _name(digest: bytes, x: Array) -> str:
    """16 hexadecimal digits for an index, by its digest, and the rows to add to it."""
    name = blake2b(digest, digest_size=8)
    name.update(repr((x.dtype.str, x.shape)).encode())
    with _format.Digests(threads.resolve(None)) as digests:
        name.update(digests.end(digests.begin(_format.as_bytes(np.ascontiguousarray(x)))).encode())
    return name.hexdigest()
