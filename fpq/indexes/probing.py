"""What a search sees of an inverted file: the lists near a query, and the codes in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from fpq import _native, scaling
from fpq._checks import Float32, Int32, Int64
from fpq.indexes.base import Bits, bits_to_mask
from fpq.indexes.coarse import CoarseQuantizer
from fpq.indexes.lists import BLOCK_ROWS, InvertedLists
from fpq.quantizer import ProductQuantizer

RANGE_BLOCKS = 1 << 16  # blocks of distances that a range search holds at a time
PROBES = 1 << 22  # of all queries, 12 bytes each, that are held at a time


class Probing(NamedTuple):
    """Search for prepared queries in the `n_probe` nearest lists of each."""

    quantizer: ProductQuantizer
    coarse: CoarseQuantizer
    rotated: Float32  # (n_lists, rotated d), the centroids as codes see them
    lists: InvertedLists
    radii: Float32 | None  # (n_lists,), no decoded residual is longer; None: codes stand for the vectors themselves
    inner_product: bool
    n_probe: int
    n_threads: int
    power: int  # queries, rotated and radii are scaled by 2**power (fpq/scaling.py)

    def _adc(self) -> tuple[Float32, Float32, Int32, int, bool]:
        return self.quantizer.adc(self.inner_product, self.power)

    def _batches(self, queries: Float32) -> Iterator[tuple[slice, Int64]]:
        """Some queries at a time, and the lists near each of them."""
        step = max(1, PROBES // self.n_probe)
        for start in range(0, len(queries), step):
            here = slice(start, min(len(queries), start + step))
            yield here, self.coarse.probe(queries[here], self.n_probe, self.n_threads, self.power)

    def nearest(self, queries: Float32, k: int, allowed: Bits | None) -> tuple[Float32, Int64]:
        """The k nearest codes: distances and ids (nq, k)."""
        lists = self.lists
        distances = np.empty((len(queries), k), dtype=np.float32)
        ids = np.empty((len(queries), k), dtype=np.int64)
        for here, probes in self._batches(queries):
            _native.ivf_search(
                *self._adc(), self.rotated, lists.layout.first, lists.layout.chain,
                lists.rows if allowed is None else allowed, self.radii, self.radii is not None,
                self.quantizer.rotate(queries[here], self.n_threads), probes, lists.blocks.data,
                lists.slot_ids.data, distances[here], ids[here], self.n_threads,
            )  # fmt: skip
        return scaling.unscaled(distances, self.power, self.inner_product), ids

    def within(
        self, queries: Float32, limit: np.float32, allowed: Bits | None
    ) -> Iterator[tuple[Int64, Float32, Int64]]:
        """Query numbers, distances and ids of all codes up to a distance, some queries at a time."""
        for here, probes in self._batches(queries):
            for query, distances, ids in self._within(queries[here], probes, limit, allowed):
                yield query + here.start, distances, ids

    def _within(
        self, queries: Float32, probes: Int64, limit: np.float32, allowed: Bits | None
    ) -> Iterator[tuple[Int64, Float32, Int64]]:
        first, chain = self.lists.layout.first, self.lists.layout.chain
        blocks_of = np.diff(first)[probes].sum(axis=1)
        starts = np.concatenate([[0], np.cumsum(blocks_of)])
        rotated = self.quantizer.rotate(queries, self.n_threads)
        rows = self.lists.rows if allowed is None else allowed
        begin = 0
        while begin < len(queries):
            end = max(begin + 1, int(np.searchsorted(starts, starts[begin] + RANGE_BLOCKS, side="right")) - 1)
            out = np.empty((int(starts[end] - starts[begin]), BLOCK_ROWS), dtype=np.float32)
            _native.ivf_all(
                *self._adc(), self.rotated, first, chain, rows, self.radii, self.radii is not None,
                rotated[begin:end], probes[begin:end], self.lists.blocks.data, starts[begin:end] - starts[begin],
                out, self.n_threads,
            )  # fmt: skip
            lists = probes[begin:end].ravel()
            length = np.diff(first)[lists]
            within = np.arange(len(out)) - np.repeat(np.cumsum(length) - length, length)
            blocks = chain[np.repeat(first[lists], length) + within]
            out = scaling.unscaled(out, self.power, self.inner_product)
            near = (out <= limit) & bits_to_mask(rows[blocks]).reshape(-1, BLOCK_ROWS)
            at, row = np.nonzero(near)
            query = np.repeat(np.arange(begin, end), blocks_of[begin:end])[at]
            yield query, out[at, row], self.lists.slot_ids.data[blocks[at], row]
            begin = end
