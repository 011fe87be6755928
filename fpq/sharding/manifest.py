"""The manifest of a sharded index: a small JSON file that names shards, their ids and their digests."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from fpq import _format, storage
from fpq.indexes.pq_base import CodeIndex
from fpq.storage import FormatError, Layout

FORMAT = "fpq-manifest"
VERSION = 1
KINDS = ("FlatIndex", "PQIndex", "IVFPQIndex")
OF_A_SHARD = ("n", "next_id", "rerank")  # parameters in which shards of one index differ; so do all arrays but these:
LEARNED = ("codebooks", "code_counts", "rotation_matrix", "rotation_mean", "centroids")


class Shard(NamedTuple):
    """A file that holds an ordinary index.

    Attributes
    ----------
    file : str
        Its path from the manifest's folder.
    n : int
        Vectors in it.
    offset : int
        What is added to the ids in the file.
    first, last : int
        The smallest and the largest id, offset included.
    digest : str
        Of all that the file's header says, the digests of its arrays included.
    """

    file: str
    n: int
    offset: int
    first: int
    last: int
    digest: str


class Manifest(NamedTuple):
    """What a manifest says: shards of one kind of index with common codebooks, in the order of their ids."""

    kind: str
    metric: str
    dim: int
    learned: str  # digest of parameters and learned arrays, common to all shards
    shards: tuple[Shard, ...]

    def with_shards(self, shards: Iterable[Shard]) -> Manifest:
        """With these shards instead.

        Raises
        ------
        ValueError
            If ranges of ids overlap.
        """
        in_order = tuple(sorted(shards, key=lambda shard: shard.first))
        for before, after in itertools.pairwise(in_order):
            if after.first <= before.last:
                raise ValueError(
                    f"shards: expected separate ranges of ids, got {before.first} to {before.last} in {before.file} "
                    f"and {after.first} to {after.last} in {after.file}"
                )
        return self._replace(shards=in_order)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write it atomically."""
        content = {"format": FORMAT, "version": VERSION, **self._asdict()}
        content["shards"] = [shard._asdict() for shard in self.shards]
        with storage._replacing(Path(path)) as file:
            file.write(json.dumps(content, indent=1).encode())


def read(path: str | os.PathLike[str]) -> Manifest:
    """A manifest from its file.

    Raises
    ------
    FormatError
        If it is not a manifest, of another version, or not well-formed.
    OSError
        If it cannot be read.
    """
    with open(path, "rb") as file:  # which may be far too large to be read as a whole
        head = file.read(8)
        size = os.fstat(file.fileno()).st_size
    if head.lstrip()[:1] != b"{":
        single = 0 < int.from_bytes(head, "little") <= _format.MAX_HEADER
        looks = "fpq.load opens an index of one file" if single else _format.looks_like(head, size)
        raise FormatError(f"{os.fspath(path)}: expected a manifest (JSON): {looks}")
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise FormatError(f"{os.fspath(path)}: expected a manifest (JSON): {error}") from None
    try:
        return _parse(content)
    except ValueError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from None


def _parse(content: Any) -> Manifest:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(f"format: expected a manifest with format {FORMAT!r}")
    if content.get("version") != VERSION:
        raise FormatError(f"version: expected {VERSION}, got {content.get('version')!r}")
    types: dict[str, type] = {"kind": str, "metric": str, "dim": int, "learned": str, "shards": list}
    _expect("manifest", content, {"format": str, "version": int, **types})
    if content["kind"] not in KINDS:
        raise FormatError(f"kind: expected one of {', '.join(KINDS)}, got {content['kind']!r}")
    shards = []
    for number, entry in enumerate(content["shards"]):
        _expect(f"shards[{number}]", entry, get_type_hints(Shard))
        shard = Shard(**entry)
        if (
            not 0 <= shard.offset <= shard.first <= shard.last < 1 << 63
            or not 0 < shard.n <= shard.last - shard.first + 1
        ):
            raise FormatError(f"shards[{number}]: expected n, offset, first and last that fit together, got {entry}")
        shards.append(shard)
    return Manifest(**{name: content[name] for name in types if name != "shards"}, shards=()).with_shards(shards)


def _expect(what: str, entry: Any, types: dict[str, type]) -> None:
    if not isinstance(entry, dict) or set(entry) != set(types):
        raise FormatError(f"{what}: expected a JSON object with {', '.join(types)}")
    for name, expected in types.items():
        if type(entry[name]) is not expected:
            raise FormatError(f"{what}: expected {name} of type {expected.__name__}, got {entry[name]!r}")


def describe(path: str | os.PathLike[str], folder: Path, offset: int = 0) -> tuple[Shard, Manifest]:
    """What a manifest in `folder` is to say of a file, and the manifest, without shards, that it belongs to.

    Raises
    ------
    FormatError, OSError
        If it is not the file of an index that can be a shard, or damaged as far as its header shows.
    ValueError
        If the index is empty.
    """
    index, layout = _load(path)
    if len(index) == 0:
        raise ValueError(f"{os.fspath(path)}: expected a shard of at least one vector, got an empty index")
    ids = index._ids.native
    first, last = (0, len(index) - 1) if ids is None else (int(ids.min()), int(ids.max()))
    if last + offset >= 1 << 63:
        raise ValueError(f"offset: expected ids below 2**63, got {last} + {offset}")
    name = Path(os.path.relpath(os.path.realpath(path), os.path.realpath(folder))).as_posix()
    shard = Shard(name, len(index), offset, first + offset, last + offset, digest(layout))
    return shard, Manifest(layout.kind, index.metric, index.dim, learned(layout), ())


def open_shard(folder: Path, shard: Shard, manifest: Manifest) -> Any:
    """The index of a shard, mapped from its file, which is seen to be the one that the manifest means.

    Raises
    ------
    FormatError, OSError
        If it is not, or cannot be read.
    """
    path = folder / shard.file
    index, layout = _load(path)
    if learned(layout) != manifest.learned:
        raise FormatError(f"{path}: expected the codebooks and parameters of the other shards")
    if digest(layout) != shard.digest or len(index) != shard.n:
        raise FormatError(f"{path}: expected the file with digest {shard.digest}, got {digest(layout)}")
    return index


def _load(path: str | os.PathLike[str]) -> tuple[Any, Layout]:
    index = storage.load(path, mmap=True)
    if index._kind not in KINDS:
        raise FormatError(f"{os.fspath(path)}: expected a shard of kind {', '.join(KINDS)}, got {index._kind}")
    if isinstance(index, CodeIndex):
        index.rerank = None  # re-ranking is done for all shards together
    return index, index._file.layout


def digest(layout: Layout) -> str:
    """64 hexadecimal digits for the whole content of a file."""
    return _hash(layout.kind, layout.params, layout)


def learned(layout: Layout) -> str:
    """64 hexadecimal digits for what the shards of one index have in common."""
    arrays = {name: extent for name, extent in layout.arrays.items() if name in LEARNED}
    params = {name: value for name, value in layout.params.items() if name not in OF_A_SHARD}
    if "keep_vectors" in params:  # each shard may have a file of its own
        params["keep_vectors"] = bool(params["keep_vectors"])
    return _hash(layout.kind, params, layout._replace(arrays=arrays))


def _hash(kind: str, params: dict[str, Any], layout: Layout) -> str:
    arrays = {name: [extent.dtype.str, extent.shape, extent.digest] for name, extent in layout.arrays.items()}
    return blake2b(json.dumps([kind, params, arrays], sort_keys=True).encode(), digest_size=32).hexdigest()
