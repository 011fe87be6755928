"""The manifest of a sharded index: a small JSON file with the names, ids and digests of the shards."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from fpq import _checks, _files, _format, storage
from fpq.indexes.pq_base import CodeIndex
from fpq.storage import FormatError, Layout

FORMAT = "fpq-manifest"
VERSION = 1
OF_CODES = ("PQIndex", "IVFPQIndex")
BY_CANDIDATES = ("C2LSHIndex", "PMLSHIndex")
KINDS = ("FlatIndex", *OF_CODES, "E2LSHIndex", *BY_CANDIDATES)
OF_A_SHARD = ("n", "next_id", "rerank")  # parameters that differ between shards of one index
# Arrays that are equal in all shards of one index.
LEARNED = (
    "codebooks", "code_counts", "rotation_matrix", "rotation_mean", "centroids", "spreads", "local_rotations",
    "refine_steps", "refine_centre", "hash_centre", "hash_directions", "hash_shifts", "hash_mixers", "sketch_centre",
    "sketch_directions", "sketch_least",
)  # fmt: skip


class Shard(NamedTuple):
    """The file of an index, as an entry of a manifest.

    Attributes
    ----------
    file : str
        Path relative to the folder of the manifest.
    n : int
        Number of vectors.
    offset : int
        The number that is added to the ids of the file.
    first, last : int
        The smallest and the largest id, including the offset.
    digest : str
        Digest of the header of the file, which contains the digests of the arrays.
    """

    file: str
    n: int
    offset: int
    first: int
    last: int
    digest: str


class Manifest(NamedTuple):
    """The content of a manifest: shards of one index class and one training, in the order of their ids."""

    kind: str
    metric: str
    dim: int
    learned: str  # digest of the parameters and learned arrays of all shards
    shards: tuple[Shard, ...]

    def with_shards(self, shards: Iterable[Shard]) -> Manifest:
        """The same manifest with other shards.

        Raises
        ------
        ValueError
            If the id ranges of two shards overlap.
        """
        in_order = tuple(sorted(shards, key=lambda shard: shard.first))
        for before, after in itertools.pairwise(in_order):
            if after.first <= before.last:
                raise ValueError(
                    f"shards: expected disjoint ranges of ids, got {before.first} to {before.last} in {before.file} "
                    f"and {after.first} to {after.last} in {after.file}"
                )
        return self._replace(shards=in_order)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the manifest atomically."""
        content = {"format": FORMAT, "version": VERSION, **self._asdict()}
        content["shards"] = [shard._asdict() for shard in self.shards]
        with _files.replacing(Path(path)) as file:
            file.write(json.dumps(content, indent=1).encode())


def read(path: str | os.PathLike[str]) -> Manifest:
    """Read a manifest.

    Raises
    ------
    FormatError
        If the file is not a manifest, has another version, or is not well-formed.
    OSError
        If the file cannot be read.
    """
    with open(path, "rb") as file:  # a file that is not a manifest may be too large to read as a whole
        head = file.read(8)
        size = os.fstat(file.fileno()).st_size
    if head.lstrip()[:1] != b"{":
        is_index = 0 < int.from_bytes(head, "little") <= _format.MAX_HEADER
        hint = "fpq.load opens an index of one file" if is_index else _format.looks_like(head, size)
        raise FormatError(f"{os.fspath(path)}: expected a manifest (JSON): {hint}")
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
        raise FormatError(f"not a manifest of shards: expected a JSON object with format {FORMAT!r}")
    if content.get("version") != VERSION:
        raise FormatError(f"version: expected {VERSION}, got {content.get('version')!r}")
    types: dict[str, type] = {"kind": str, "metric": str, "dim": int, "learned": str, "shards": list}
    _expect("manifest", content, {"format": str, "version": int, **types})
    if content["kind"] not in KINDS:
        raise FormatError(f"kind: expected one of {', '.join(KINDS)}, got {content['kind']!r}")
    shards, of_shard = [], get_type_hints(Shard)
    for number, entry in enumerate(content["shards"]):
        _expect(f"shards[{number}]", entry, of_shard)
        shard = Shard(**entry)
        if (
            not 0 <= shard.offset <= shard.first <= shard.last < 1 << 63
            or not 0 < shard.n <= shard.last - shard.first + 1
        ):
            raise FormatError(f"shards[{number}]: expected n, offset, first and last that fit together, got {entry}")
        shards.append(shard)
    return Manifest(**{name: content[name] for name in types if name != "shards"}, shards=()).with_shards(shards)


def _expect(name: str, entry: Any, types: dict[str, type]) -> None:
    if not isinstance(entry, dict) or set(entry) != set(types):
        raise FormatError(f"{name}: expected a JSON object with {', '.join(types)}")
    for key, expected in types.items():
        if type(entry[key]) is not expected:
            raise FormatError(f"{name}: expected {key} of type {expected.__name__}, got {entry[key]!r}")


def describe(path: str | os.PathLike[str], folder: Path, offset: int = 0) -> tuple[Shard, Manifest]:
    """The entry of a file for a manifest in `folder`, and a manifest without shards that matches the file.

    Raises
    ------
    FormatError, OSError
        If the file cannot be read, is not an index that can be a shard, or has a damaged header.
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


def with_shard(content: Manifest | None, file: str | os.PathLike[str], folder: Path, offset: Any) -> Manifest:
    """The manifest `content` (None: a new one) with one more shard.

    Raises
    ------
    FormatError, OSError, ValueError, TypeError
        As `ShardedIndex.add_shard`.
    """
    shard, belongs = describe(file, folder, _checks.integer("offset", offset, 0))
    if content is None:
        return belongs.with_shards([shard])
    if belongs.learned != content.learned:
        raise FormatError(f"{os.fspath(file)}: expected the training and parameters of the other shards")
    return content.with_shards([*content.shards, shard])


def open_shard(folder: Path, shard: Shard, manifest: Manifest) -> Any:
    """The index of a shard, mapped from its file, after a check that the file is that of the manifest.

    Raises
    ------
    FormatError, OSError
        If the file is another one or cannot be read.
    """
    path = folder / shard.file
    index, layout = _load(path)
    if learned(layout) != manifest.learned:
        raise FormatError(f"{path}: expected the training and parameters of the other shards")
    if digest(layout) != shard.digest or len(index) != shard.n:
        raise FormatError(f"{path}: expected the file with digest {shard.digest}, got {digest(layout)}")
    return index


def _load(path: str | os.PathLike[str]) -> tuple[Any, Layout]:
    index = storage.load(path, mmap=True)
    if index._kind not in KINDS:
        raise FormatError(f"{os.fspath(path)}: expected a shard of kind {', '.join(KINDS)}, got {index._kind}")
    if isinstance(index, CodeIndex):
        index.rerank = None  # candidates of all shards are re-ranked together
    return index, index._file.layout


def digest(layout: Layout) -> str:
    """A digest of the whole content of a file, 64 hexadecimal digits."""
    return _hash(layout.kind, layout.params, layout)


def learned(layout: Layout) -> str:
    """A digest of the content that all shards of one index share, 64 hexadecimal digits."""
    arrays = {name: extent for name, extent in layout.arrays.items() if name in LEARNED}
    params = {name: value for name, value in layout.params.items() if name not in OF_A_SHARD}
    if "keep_vectors" in params:  # the files of kept vectors differ between shards
        params["keep_vectors"] = bool(params["keep_vectors"])
    return _hash(layout.kind, params, layout._replace(arrays=arrays))


def _hash(kind: str, params: dict[str, Any], layout: Layout) -> str:
    arrays = {name: [extent.dtype.str, extent.shape, extent.digest] for name, extent in layout.arrays.items()}
    return blake2b(json.dumps([kind, params, arrays], sort_keys=True).encode(), digest_size=32).hexdigest()
