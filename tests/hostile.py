"""Files that are not what `save` wrote: cut, flipped, mixed up, made by hand with fitting digests."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import make

import fpq
from fpq import _format, storage

FILES = [path.read_bytes() for path in sorted(make.FOLDER.glob("*.fpq"))]
KINDS = ("truncated", "flipped", "mixed up", "hand-made")
NUMBERS = (-1, 0, 1, 2, 3, 7, 8, 63, 64, 65, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, 10**400)
WORDS = (
    "",
    "l2",
    "ip",
    "cosine",
    "pca",
    "opq",
    "random",
    "k-means++",
    "inf",
    "nan",
    "shared",
    "\0",
    "\ud800",
    "FlatIndex",
)
OTHERS = (None, True, False, 0.5, 1e300, -0.0, [], {}, [1], {"c": 1.5}, {"c": 1.5, "candidates": 10**30}, [[[]]])
DTYPES = [np.dtype(code) for code in _format.DTYPES.values()]


def pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def hostile(kind: str, rng: np.random.Generator, files: list[bytes] = FILES) -> tuple[bytes, bytes]:
    """A file of that kind, and the whole one it was made of."""
    data = pick(rng, files)
    if kind == "truncated":
        return data[: int(rng.integers(len(data)))], data
    if kind == "flipped":
        return flipped(data, rng, int(pick(rng, (1, 1, 1, 2, 3, 8, 64)))), data
    if kind == "mixed up":
        return mixed_up(data, pick(rng, files), rng), data
    return hand_made(data, rng), data


def flipped(data: bytes, rng: np.random.Generator, bits: int) -> bytes:
    changed = bytearray(data)
    for bit in rng.integers(len(data) * 8, size=bits):
        changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def mixed_up(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    a, b = sorted(int(at) for at in rng.integers(len(data) + 1, size=2))
    c, d = sorted(int(at) for at in rng.integers(len(other) + 1, size=2))
    header, other_header = (8 + int.from_bytes(file[:8], "little") for file in (data, other))
    return pick(
        rng,
        (
            data[:a] + other[a:],  # one's beginning, another's end
            data[:header] + other[other_header:],
            data[:a] + other[c:d] + data[b:],
            data[:a] + data[b:],
            data[:b] + data[a:],
            data[:a] + bytes(b - a) + data[b:],
            data[:a] + rng.bytes(b - a) + data[b:],
            data + other,
            data[a:b],
            rng.bytes(b - a),
            int(pick(rng, NUMBERS[1:-3])).to_bytes(8, "little") + data[8:],
        ),
    )


def read(data: bytes) -> tuple[str, dict[str, Any], dict[str, Any]]:
    head, text = data[:8], data[8 : 8 + int.from_bytes(data[:8], "little")]
    layout = _format.parse(head, text, len(data))
    arrays = {
        name: np.frombuffer(data[e.start : e.start + e.nbytes], e.dtype).reshape(e.shape).copy()
        for name, e in layout.arrays.items()
    }
    return layout.kind, layout.params, arrays


def write(kind: Any, params: dict[str, Any], arrays: dict[str, Any]) -> bytes:
    return b"".join(_format.encode(kind, params, arrays, 1))


def hand_made(data: bytes, rng: np.random.Generator) -> bytes:
    """Well-formed and with fitting digests, but for what a reader has to look at."""
    kind, params, arrays = read(data)
    if rng.random() < 0.15:
        return with_other_header(data, rng)
    for _ in range(int(rng.integers(1, 4))):
        if rng.random() < 0.5 or not arrays:
            inner = params.get("quantizer", params.get("chosen"))
            change_params(inner if isinstance(inner, dict) and inner and rng.random() < 0.6 else params, rng)
        else:
            change_arrays(arrays, rng)
    if rng.random() < 0.05:
        kind = pick(rng, (*storage.Storable._kinds, "object", ""))
    return write(kind, params, arrays)


def change_params(params: dict[str, Any], rng: np.random.Generator) -> None:
    name = pick(rng, list(params))
    what = rng.integers(6)
    if what == 0:
        del params[name]
    elif what == 1:
        params[pick(rng, (*params, "x", "vectors"))] = params[name]
    elif what == 2 and type(params[name]) is int:
        params[name] += int(pick(rng, (-64, -1, 1, 64)))
    else:
        params[name] = pick(rng, pick(rng, (NUMBERS, WORDS, OTHERS)))
    if not params:
        params["x"] = 0


def change_arrays(arrays: dict[str, Any], rng: np.random.Generator) -> None:
    name = pick(rng, list(arrays))
    array = arrays[name]
    what = rng.integers(9)
    if what == 0:
        del arrays[name]
    elif what == 1:
        arrays[pick(rng, ("ids", "vectors", "norms", "codes", "codebooks", "init", "starts", "x"))] = array
    elif what == 2:
        with np.errstate(all="ignore"):
            arrays[name] = array.astype(pick(rng, DTYPES), casting="unsafe")
    elif what == 3:
        arrays[name] = array.reshape(pick(rng, ((-1,), array.shape[::-1], (*array.shape, 1), (1, *array.shape))))
    elif what == 4:
        arrays[name] = array[: int(rng.integers(len(array) + 1))]
    elif what == 5:
        arrays[name] = np.concatenate([array, array[:1]])
    elif array.size:
        flat = array.reshape(-1)
        values = (np.nan, np.inf, -1, 0, 1, 3e38, 2**62, -(2**63), flat[0], rng.integers(256))
        with np.errstate(all="ignore"):
            new = np.array(pick(rng, values)).astype(array.dtype)
        flat[rng.integers(array.size, size=int(pick(rng, (1, 2, array.size))))] = new


def with_other_header(data: bytes, rng: np.random.Generator) -> bytes:
    """With a header that says something else of the same bytes, and a digest that fits."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    names = [name for name in header if name != "__metadata__"]
    entry = header[pick(rng, names)] if names and rng.random() < 0.7 else header["__metadata__"]
    entry[pick(rng, list(entry))] = pick(
        rng, (*NUMBERS[:-1], *WORDS, *OTHERS, [0, 2**62], [2**40, 2**40], [-1, 3], [0] * 9, [2**32, 2**32], "F32", "U8")
    )
    if "header_digest" in header["__metadata__"] and rng.random() < 0.9:
        header["__metadata__"]["header_digest"] = _format.BLANK
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(size) if rng.random() < 0.5 else text
    blank = len(text).to_bytes(8, "little") + text
    own = _format.hashlib.blake2b(blank, digest_size=32).hexdigest()
    return blank.replace(_format.BLANK.encode(), own.encode()) + data[8 + size :]


def contents(thing: Any) -> bytes:
    return b"".join(thing._pieces())


def exercise(thing: Any) -> None:
    """Use what a made-up file gave: it may answer nonsense or say no, but it lives."""
    rng = np.random.default_rng(0)
    if isinstance(thing, (fpq.KMeans, fpq.ProductQuantizer)):
        if isinstance(thing, fpq.KMeans) and hasattr(thing, "centroids"):
            thing.predict(rng.normal(size=(3, thing.centroids.shape[1])))
        elif isinstance(thing, fpq.ProductQuantizer) and thing.is_trained:
            thing.decode(thing.encode(rng.normal(size=(3, thing.dim))))
        return
    if isinstance(thing, fpq.MinHashIndex):
        exercise_sets(thing)
        return
    if not thing.is_trained or thing.dim is None:
        return
    if isinstance(thing, fpq.E2LSHIndex):
        thing.n_probe = min(thing.n_probe, 10_000)  # a made-up number may take hours
    queries = rng.normal(size=(3, thing.dim))
    if isinstance(thing, fpq.MultiVectorIndex):
        queries = queries[:, None]  # of one token each
    if getattr(thing, "rerank", None) is not None and not thing.keep_vectors and not getattr(thing, "refine", None):
        with pytest.raises(ValueError, match="rerank: expected None"):
            thing.search(queries, k=5)
        thing.rerank = None
    with np.errstate(all="ignore"):
        thing.search(queries, k=5)
        thing.search(queries, k=5, allowed=thing.ids[:3])
        thing.range_search(queries, 1.0)
        if len(thing):
            thing.reconstruct(thing.ids[:2])
            thing.search(queries[0], k=len(thing))
        if getattr(thing, "keep_vectors", False):
            thing.search(queries[0], k=2, rerank=3)
        if thing._file is None:
            thing.remove(thing.ids[:1])
            try:
                thing.add(queries)
            except ValueError as error:
                assert "ids: expected ids, got None" in str(error), error  # next_id may be as large as can be


def exercise_sets(index: fpq.MinHashIndex) -> None:
    """The same for an index of sets."""
    queries = make.sets(3, 4)
    index.search(queries, k=5)
    index.search(queries, k=5, allowed=index.ids[:3])
    index.range_search(queries, 0.1)
    if index.keep_sets:
        index.reconstruct(index.ids[:2])
    if index._file is None:
        index.remove(index.ids[:1])
        try:
            index.add(queries)
        except ValueError as error:
            assert "ids: expected ids, got None" in str(error), error


def check(kind: str, data: bytes, whole: bytes, path: Path, mmap: bool) -> str:
    """Load a hostile file: 'refused', 'same' (the original data), or, with digests that fit, 'made up' but sound."""
    path.write_bytes(data)
    try:
        thing = fpq.load(path, mmap=mmap)
        if mmap and kind == "hand-made":
            with contextlib.suppress(ValueError):  # of unchecked ids, say; verify comes next
                exercise(thing)
        thing.verify()
    except fpq.FormatError:
        return "refused"
    if contents(thing) == whole or (kind == "mixed up" and contents(thing) in FILES):  # or the other file, whole
        return "same"
    assert kind == "hand-made", f"a {kind} file was loaded as if it were whole"
    try:
        exercise(thing)
    except ValueError as error:
        assert "expected distances within float32" in str(error), error  # of numbers that are as large as can be
    return "made up"
