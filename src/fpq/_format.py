"""The file format: a safetensors header with digests, then the arrays. docs/format.md is the specification."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fpq._checks import Array
from fpq.threads import Call, Workers

VERSION = 1
ALIGNMENT = 64
MAX_HEADER = 1 << 20
MAX_DIMENSIONS = 8
DIGEST_CHUNK = 1 << 20
BLANK = "0" * 64
DTYPES: dict[str, Any] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BF16": [("bfloat16", "<u2")],
}  # fmt: skip
BEGINNINGS = {  # the first bytes of files that a user may name by mistake
    b"\x93NUMPY": "a .npy file",
    b"PK\3\4": "a zip archive, as .npz files are",
    b"PK\5\6": "an empty zip archive",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x1f\x8b": "a gzip file",
    b"\x89PNG": "a PNG picture",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x80\4": "a pickle",
    b"\x80\5": "a pickle",
    b"Ix": "an index of faiss",
    b"Iw": "an index of faiss",
}
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}


class FormatError(ValueError):
    """The file was not written by fpq, has another format version, or is damaged."""


class Extent(NamedTuple):
    """The type, shape and position of an array in a file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int  # from the beginning of the file
    nbytes: int
    digest: str


class Layout(NamedTuple):
    """The content of a header."""

    kind: str
    params: dict[str, Any]
    arrays: dict[str, Extent]


def as_bytes(array: Array) -> memoryview:
    """The bytes of a C-contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


class Digests:
    """BLAKE2b digests of the BLAKE2b digests of chunks, computed by threads while the caller reads or writes."""

    def __init__(self, n_threads: int) -> None:
        self._workers = Workers(n_threads)

    def __enter__(self) -> Digests:
        return self

    def __exit__(self, *_: object) -> None:
        self._workers.close()

    def begin(self, data: memoryview) -> list[Call[bytes]]:
        """Start the digests of the chunks of `data`, which begins at a multiple of DIGEST_CHUNK."""
        return [
            self._workers.submit(_digest, data[start : start + DIGEST_CHUNK])
            for start in range(0, len(data), DIGEST_CHUNK)
        ]

    def end(self, chunks: list[Call[bytes]]) -> str:
        """The digest of all `chunks` from `begin`."""
        return _digest(b"".join(chunk.result() for chunk in chunks)).hex()


def _digest(data: memoryview | bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _little_endian(array: Array) -> Array:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def in_file_order(arrays: dict[str, Array]) -> dict[str, Array]:
    """Arrays in the order of a file, little-endian.

    Arrays whose size is a multiple of 64 bytes come first, the others by descending element size. So every array is
    aligned to its element size.
    """

    def rank(item: tuple[str, Array]) -> tuple[bool, int, str]:
        name, array = item
        return array.nbytes % ALIGNMENT != 0, -array.itemsize, name

    return {name: _little_endian(array) for name, array in sorted(arrays.items(), key=rank)}


def header(kind: str, params: dict[str, Any], arrays: dict[str, Array], digests: dict[str, str]) -> bytes:
    """The bytes before the arrays, which are in file order. The size of the header does not depend on the digests."""
    entries: dict[str, Any] = {
        "__metadata__": {
            "format": "fpq",
            "version": str(VERSION),
            "kind": kind,
            "params": json.dumps(params, allow_nan=False),
            "digests": json.dumps(digests),
            "header_digest": BLANK,
        }
    }
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        entries[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-(8 + len(text)) // ALIGNMENT) * ALIGNMENT - 8)
    blank = len(text).to_bytes(8, "little") + text
    marked = f'"header_digest":"{BLANK}"'.encode()
    return blank.replace(marked, marked.replace(BLANK.encode(), _digest(blank).hex().encode()))


def encode(kind: str, params: dict[str, Any], arrays: dict[str, Array], n_threads: int) -> list[bytes | memoryview]:
    """The content of a file as buffers: the header and the arrays, which are not copied."""
    arrays = in_file_order(arrays)
    buffers = [as_bytes(array) for array in arrays.values()]
    with Digests(n_threads) as digests:
        begun = [digests.begin(buffer) for buffer in buffers]
        finished = {name: digests.end(chunks) for name, chunks in zip(arrays, begun, strict=True)}
    return [header(kind, params, arrays, finished), *buffers]


def header_size(head: bytes, file_size: int) -> int:
    """The size of the header in bytes, from the first 8 bytes of a file."""
    size = int.from_bytes(head, "little")
    if len(head) == 8 and size <= min(MAX_HEADER, file_size - 8):
        return size
    if len(head) == 8 and size <= MAX_HEADER and (8 + size) % ALIGNMENT == 0:  # true for every header of fpq
        raise FormatError(f"expected {size} bytes of header, got a file of {file_size} bytes: it has been cut short")
    raise FormatError(f"not an fpq file ({looks_like(head, file_size)})")


def looks_like(head: bytes, file_size: int) -> str:
    """The likely format of a file that is not an fpq file, from its first 8 bytes."""
    if not file_size:
        return "it is empty"
    for beginning, kind in BEGINNINGS.items():
        if head.startswith(beginning):
            return f"it looks like {kind}"
    if head.lstrip()[:1] in (b"{", b"["):
        return "it looks like JSON; a manifest of shards is opened by fpq.ShardedIndex"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "it looks like text"
    dim = int.from_bytes(head[:4], "little")
    if dim and any(file_size % (4 + dim * size) == 0 for size in (4, 1)):
        return f"it looks like an .fvecs, .ivecs or .bvecs file of dimension {dim}"
    return f"it begins with the bytes {head.hex(' ')}"


def parse(head: bytes, text: bytes, file_size: int) -> Layout:
    """The layout in the header `text`; every field is checked."""
    if not text.startswith(b"{"):
        raise FormatError(f"not an fpq file ({looks_like(head, file_size)})")
    header = _json("header", text)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.get("format") != "fpq":
        raise FormatError("not an fpq file (it looks like a safetensors file written by another program)")
    if metadata.get("version") != str(VERSION):
        raise FormatError(
            f"expected format version {VERSION}, got {metadata.get('version')!r}: a newer fpq may read it"
        )
    _check_header_digest(head + text, metadata.get("header_digest"))
    if not all(isinstance(metadata.get(name), str) for name in ("kind", "params", "digests")):
        raise FormatError("expected kind, params and digests in the header's metadata")
    digests = _json("digests", metadata["digests"])
    if set(digests) != set(header):
        raise FormatError("digests: expected one digest per array")
    extents = {name: _extent(name, entry, digests[name]) for name, entry in header.items()}
    end = 0
    for name, extent in sorted(extents.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if extent.start != end:
            raise FormatError(f"{name}: expected its data at byte {end}, got byte {extent.start}")
        end += extent.nbytes
    begin = 8 + len(text)
    if begin + end != file_size:
        raise FormatError(f"expected a file of {begin + end} bytes, got {file_size}")
    arrays = {name: extent._replace(start=begin + extent.start) for name, extent in extents.items()}
    return Layout(metadata["kind"], _json("params", metadata["params"]), arrays)


def _check_header_digest(raw: bytes, stored: Any) -> None:
    if not isinstance(stored, str) or not re.fullmatch("[0-9a-f]{64}", stored):
        raise FormatError("header_digest: expected 64 hexadecimal digits")
    marked = f'"header_digest":"{stored}"'.encode()
    blank = raw.replace(marked, f'"header_digest":"{BLANK}"'.encode())
    if raw.count(marked) != 1 or _digest(blank).hex() != stored:
        raise FormatError("the header is damaged: its digest differs")


def _json(what: str, text: bytes | str) -> dict[str, Any]:
    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        pairs = list(pairs)
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is repeated")
        return found

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a number")

    try:
        if isinstance(text, bytes):
            text = text.decode()
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: expected JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what}: expected a JSON object")
    return value


def _extent(name: str, entry: Any, digest: Any) -> Extent:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{name}: expected dtype, shape and data_offsets")
    if not isinstance(digest, str):
        raise FormatError(f"{name}: expected a digest")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(f"{name}: expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:
        raise FormatError(f"{name}: expected shape and data_offsets of integers of at least 0")
    nbytes = np.dtype(DTYPES[dtype]).itemsize
    for size in shape:
        nbytes *= size
    if offsets[1] - offsets[0] != nbytes:
        raise FormatError(f"{name}: expected {nbytes} bytes for {dtype} {shape}, got {offsets[1] - offsets[0]}")
    return Extent(np.dtype(DTYPES[dtype]), tuple(shape), offsets[0], nbytes, digest)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) is int and 0 <= number < 1 << 63 for number in value)
