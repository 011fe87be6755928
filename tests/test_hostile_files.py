"""Damaged and made-up files end in the original data or a FormatError. bench/fuzz_load.py runs many more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fpq

WHOLE = {len(data): data for data in hostile.FILES}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("kind", hostile.KINDS)
def test_hostile_files(kind: str, mmap: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng([hostile.KINDS.index(kind), mmap])
    ends = []
    for _ in range(500):
        data, whole = hostile.hostile(kind, rng)
        ends.append(hostile.check(kind, data, whole, tmp_path / "a", mmap))
    assert ends.count("refused") > 250


@pytest.mark.parametrize("data", hostile.FILES)
def test_every_truncation_is_refused(data: bytes, tmp_path: Path) -> None:
    for size in range(0, len(data), max(1, len(data) // 200)):
        assert hostile.check("truncated", data[:size], data, tmp_path / "a", mmap=size % 2 == 0) == "refused"


def test_every_flipped_bit_of_a_small_file_is_refused(tmp_path: Path) -> None:
    data = min(hostile.FILES, key=len)
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "a").write_bytes(changed)
        with pytest.raises(fpq.FormatError):
            fpq.load(tmp_path / "a")


def test_one_flipped_bit_200_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        (tmp_path / "a").write_bytes(hostile.flipped(hostile.pick(rng, hostile.FILES), rng, 1))
        with pytest.raises(fpq.FormatError):
            fpq.load(tmp_path / "a")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_bytes(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(data)
    for mmap in (False, True):
        with pytest.raises(fpq.FormatError):
            fpq.load(tmp_path / "a", mmap=mmap)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, len(hostile.FILES) - 1), place=st.integers(0, 30), value=JSON)
def test_any_json_as_a_parameter(which: int, place: int, value: Any, tmp_path: Path) -> None:
    kind, params, arrays = hostile.read(hostile.FILES[which])
    inner = params.get("quantizer", params.get("chosen")) if place % 2 else None
    inner = inner if inner else params
    inner[list(inner)[place // 2 % len(inner)]] = value
    try:
        data = hostile.write(kind, params, arrays)
    except ValueError:  # NaN is not JSON
        return
    hostile.check("hand-made", data, hostile.FILES[which], tmp_path / "a", mmap=False)


@pytest.mark.parametrize(
    "head",
    [
        (1 << 62).to_bytes(8, "little"),
        (1 << 63).to_bytes(8, "little") + b"{",
        (300).to_bytes(8, "little") + b"[" * 300,
        (200_000).to_bytes(8, "little") + b'{"a":' * 40_000,
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
        (5).to_bytes(8, "little") + b'"\xff\xff"',
        (6000).to_bytes(8, "little") + b"{" + b'"a":' + b"9" * 5994 + b"}",
    ],
)
def test_headers(head: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(head)
    with pytest.raises(fpq.FormatError):
        fpq.load(tmp_path / "a")


@pytest.mark.parametrize("row", [65, 2**31, 2**32 - 1])
def test_mapped_entries_that_name_no_row(row: int, tmp_path: Path) -> None:
    kind, params, arrays = hostile.read((hostile.make.FOLDER / "e2lsh.fpq").read_bytes())
    arrays["entries"] = (arrays["entries"] & ~np.uint64(2**32 - 1)) | np.uint64(row)
    (tmp_path / "a").write_bytes(hostile.write(kind, params, arrays))
    index = fpq.load(tmp_path / "a", mmap=True)
    assert index.search(np.zeros((3, index.dim)), k=2, n_probe=1000).ids.max() == -1
    with pytest.raises(fpq.FormatError, match="every row once"):
        index.verify()


def test_mapped_slot_ids_that_are_not_those_of_the_index(tmp_path: Path) -> None:
    kind, params, arrays = hostile.read((hostile.make.FOLDER / "ivfpq-plain.fpq").read_bytes())
    arrays["slot_ids"][:] = 7
    (tmp_path / "a").write_bytes(hostile.write(kind, params, arrays))
    index = fpq.load(tmp_path / "a", mmap=True)
    index.search(np.zeros((3, index.dim)), k=2, allowed=[1, 2])
    with pytest.raises(fpq.FormatError, match="an id is missing"):
        index.reconstruct([199])
    with pytest.raises(fpq.FormatError, match="the ids of the index"):
        index.verify()


@pytest.mark.parametrize("file", ["ivfpq", "ivfpq-tuned"])  # ids of their own, row numbers
@pytest.mark.parametrize("moved", [-(2**40), 2**40])
def test_reranking_of_mapped_slot_ids_that_name_no_vector(file: str, moved: int, tmp_path: Path) -> None:
    kind, params, arrays = hostile.read((hostile.make.FOLDER / f"{file}.fpq").read_bytes())
    arrays["slot_ids"] = arrays["slot_ids"] + moved
    (tmp_path / "a").write_bytes(hostile.write(kind, params, arrays))
    index = fpq.load(tmp_path / "a", mmap=True)
    assert index.search(np.zeros((3, index.dim)), k=2, n_probe=1000, rerank=3).ids.max() == -1
