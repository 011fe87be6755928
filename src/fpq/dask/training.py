"""Training on the workers of a cluster: each worker holds a part of the rows, assigns and sums them."""

from __future__ import annotations

import operator
import pickle
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fpq import threads
from fpq._arrays import aligned
from fpq._checks import Array, Float32, Int32, Int64, UInt8
from fpq.dask.client import answering
from fpq.dask.grouping import ClusterGroups
from fpq.dask.limited import LimitedSteps
from fpq.dask.preparing import ClusterPrepared, received
from fpq.learning.lloyd import Change, LocalSteps, Shape, Steps


class ClusterRows:
    """Training rows that are sampled from blocks and stay with the workers.

    The parts of the workers begin at chunk boundaries of `csrc/kmeans`. The sums and the learned centroids therefore
    have the same bits as on one machine, for any number of workers.
    """

    def __init__(
        self, client: Any, samples: list[Any], starts: Int64, dim: int, places: Int64 | None = None,
        changes: tuple[Any, ...] = (),
    ) -> None:  # fmt: skip
        self._client = client
        self._samples = samples  # futures of arrays, in the order of the blocks
        self._starts = starts  # positions of their first rows, and the total number of rows
        self._places = np.arange(starts[-1]) if places is None else places
        self._changes = changes  # futures of pickled functions, in their order
        self.n = len(self._places)
        self.dim = dim

    def sampled(self, numbers: Int64 | None) -> ClusterRows:
        """As `TrainingRows.sampled`."""
        places = self._places if numbers is None else self._places[numbers]
        return ClusterRows(self._client, self._samples, self._starts, self.dim, places, self._changes)

    def changed(self, change: Change, dim: int | None = None) -> ClusterRows:
        """As `TrainingRows.changed`."""
        changes = (*self._changes, self.shared_function(change))
        return ClusterRows(self._client, self._samples, self._starts, dim or self.dim, self._places, changes)

    def take(self, numbers: Int64 | None) -> Array:
        """As `TrainingRows.take`."""
        return aligned(self.results("take", [self.collected(self.sampled(numbers)._places, _identity)])[0])

    def steps(self, offsets: Int32, shape: Shape, limited: bool) -> Steps:
        """As `TrainingRows.steps`."""
        return LimitedSteps(self, offsets, shape) if limited else ClusterSteps(self, offsets)

    def mapped(self, function: Callable[..., Any], chunk_rows: int, *of_rows: Array) -> Iterator[Any]:
        """As `TrainingRows.mapped`, with a run per part."""
        pickled, runs = self.shared_function(function), self.runs(self.n, chunk_rows)
        parts = zip(self.parts(runs), runs, strict=True)
        calls = [(on_run, pickled, part, *(x[run] for x in of_rows)) for part, run in parts]
        yield from self.results("map", calls)

    def in_turn(self, function: Callable[..., Any], state: Any, *of_rows: Array) -> Iterator[Any]:
        """As `TrainingRows.in_turn`, with a run per part."""
        pickled, runs, number = self.shared_function(function), self.runs(self.n, 1), uuid.uuid4().hex
        pairs: list[Any] = []
        for i, (part, run) in enumerate(zip(self.parts(runs), runs, strict=True)):
            if i:
                state = self.submit(f"state-{number}-{i}", operator.itemgetter(1), pairs[-1])
            pairs.append(self.submit(f"turn-{number}-{i}", on_run, pickled, part, state, *(x[run] for x in of_rows)))
        yield from self.results("result", [(operator.itemgetter(0), pair) for pair in pairs])

    def prepared(self, make: Callable[..., Any], chunk_rows: int, *others: ClusterRows) -> ClusterPrepared:
        """As `TrainingRows.prepared`, with a run per part."""
        runs = self.runs(self.n, chunk_rows)
        parts = zip(*(rows.parts(runs) for rows in (self, *others)), strict=True)
        return ClusterPrepared(self, make, list(parts))

    def grouped(self, group_of: Change, n_groups: int) -> ClusterGroups:
        """As `TrainingRows.grouped`."""
        return ClusterGroups(self, group_of, n_groups)

    @property
    def n_threads(self) -> int:
        """The number of threads of the cluster."""
        threads_of: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads_of.values()))

    def parts(self, runs: list[slice], make: Callable[[Array], Any] | None = None) -> list[Any]:
        """Futures of these rows; of what `make` makes of them, if given."""
        number = uuid.uuid4().hex
        calls = [self.collected(self._places[run], make or _identity) for run in runs]
        return [self.submit(f"part-{number}-{i}", *call) for i, call in enumerate(calls)]

    def runs(self, size: int, chunk_rows: int) -> list[slice]:
        """The first `size` rows in runs of whole chunks, about one run per thread of the cluster."""
        starts = np.arange(0, size, chunk_rows)
        ends = [*(pieces[0] for pieces in np.array_split(starts, min(len(starts), self.n_threads))[1:]), size]
        return [slice(begin, end) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]

    def shared(self, value: Any) -> Any:
        """A future of a value that many tasks need: it is sent once."""
        import dask

        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
            return self.submit(f"shared-{uuid.uuid4().hex}", _identity, value)

    def shared_function(self, function: Callable[..., Any]) -> Any:
        """A future of a pickled function. Unlike arrays from the network, arrays from a pickle are aligned."""
        return self.shared(pickle.dumps(function))

    def collected(self, places: Int64, make: Callable[[Array], Any]) -> tuple[Any, ...]:
        """The function and arguments of a task that collects the rows `places` on one worker."""
        blocks = np.searchsorted(self._starts, places, side="right") - 1
        order = np.argsort(blocks, kind="stable")
        used, begins = np.unique(blocks[order], return_index=True)
        rows = [piece - self._starts[b] for b, piece in zip(used, np.split(places[order], begins[1:]), strict=True)]
        return collect, [self._samples[b] for b in used], rows, order, list(self._changes), make

    def submit(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Submit a task and return its future."""
        with answering(self._client):
            return self._client.submit(function, *arguments, key=f"fpq-{name}", pure=False)

    def results(self, name: str, calls: list[tuple[Any, ...]]) -> list[Any]:
        """The results of tasks, each given as a function and its arguments."""
        number = uuid.uuid4().hex
        futures = [self.submit(f"{name}-{number}-{i}", *call) for i, call in enumerate(calls)]
        with answering(self._client):
            results: list[Any] = self._client.gather(futures)
        return results


class Iteration(NamedTuple):
    """The input of an iteration of k-means on a part."""

    number: int
    offsets: Int32
    centroids: Float32
    before: Float32 | None  # the centroids of the previous iteration; None for new parts
    active: UInt8
    chunk_rows: int

    def aligned(self) -> Iteration:
        """The same values in aligned arrays, as kernels require."""
        fields: Any = [aligned(each) if isinstance(each, np.ndarray) else each for each in self]
        return Iteration(*fields)


class ClusterSteps:
    """The state of the iterations on a cluster, for `iterate`: a `Steps` of `fpq.learning.lloyd`."""

    def __init__(self, rows: ClusterRows, offsets: Int32) -> None:
        self._rows = rows
        self._offsets = offsets
        self._parts: list[Any] = []
        self._size = 0
        self._number = 0
        self._before: Float32 | None = None
        self._sent: Any = None

    def sums(
        self, centroids: Float32, active: UInt8, size: int, chunk_rows: int, limit: float
    ) -> tuple[Float32, Int64]:
        """As `Steps.sums`."""
        if size != self._size:
            self._parts = self._rows.parts(self._rows.runs(size, chunk_rows), Part)
            self._size, self._before = size, None
        self._number += 1
        iteration = Iteration(self._number, self._offsets, centroids.copy(), self._before, active.copy(), chunk_rows)
        self._before = iteration.centroids
        self._sent = self._rows.shared(iteration)
        results = self._run_on_parts("lloyd", assign_and_sum)
        sums, changed = zip(*results, strict=True)
        return np.concatenate(sums, axis=1), np.sum(changed, axis=0)

    def assignment(self, j: int, size: int) -> tuple[Int32, Float32]:
        """As `Steps.assignment`."""
        ids, errors = zip(*self._run_on_parts("assignment", assignment, j), strict=True)
        return np.concatenate(ids), np.concatenate(errors)

    def assigned(self, centroids: Float32) -> tuple[Int32, Float32]:
        """As `Steps.assigned`."""
        self._sent = self._rows.shared(centroids)
        ids, errors = zip(*self._run_on_parts("assigned", assigned, self._offsets), strict=True)
        return np.concatenate(ids, axis=1), np.concatenate(errors, axis=1)

    def _run_on_parts(self, name: str, function: Callable[..., Any], *more: Any) -> list[Any]:
        return self._rows.results(name, [(function, part, self._sent, *more) for part in self._parts])


class Part:
    """Rows on a worker, with the state of the previous iteration.

    The state only saves work, and is not pickled: a part that is rebuilt on another worker gives the same results.
    """

    def __init__(self, x: Array) -> None:
        self.rows = received(x)
        self.number = -1  # of the last finished iteration
        self.steps: LocalSteps | None = None

    def __reduce__(self) -> Any:
        return Part, (self.rows.x,)

    def __sizeof__(self) -> int:
        return self.rows.x.nbytes

    def state_before(self, iteration: Iteration) -> LocalSteps:
        """The state before `iteration`; `number` is invalid until the iteration is finished."""
        number, self.number = self.number, -1
        if self.steps is None or number != iteration.number - 1:
            self.steps = LocalSteps(self.rows, iteration.offsets, iteration.centroids.shape, False)
            if iteration.before is not None:
                self.steps.sums(iteration.before, iteration.active, self.rows.n, iteration.chunk_rows, 0.0)
        return self.steps


def assign_and_sum(part: Part, iteration: Iteration) -> tuple[Float32, Int64]:
    """Run an iteration on a part: the sums per chunk, and the numbers of changed ids."""
    iteration = iteration.aligned()
    steps = part.state_before(iteration)
    sums, changed = steps.sums(iteration.centroids, iteration.active, part.rows.n, iteration.chunk_rows, 0.0)
    part.number = iteration.number
    return sums.copy(), changed


def assignment(part: Part, iteration: Iteration, j: int) -> tuple[Int32, Float32]:
    """The ids and errors of subspace `j` in the iteration."""
    if part.number != iteration.number:
        assign_and_sum(part, iteration)
    assert part.steps is not None
    return part.steps.assignment(j, part.rows.n)


def assigned(part: Part, centroids: Float32, offsets: Int32) -> tuple[Int32, Float32]:
    """The ids and errors of all subspaces for the learned centroids."""
    steps = part.steps or LocalSteps(part.rows, aligned(offsets), centroids.shape, False)
    return steps.assigned(aligned(centroids))


def on_run(pickled: bytes, x: Array, *of_rows: Array) -> Any:
    """The result of a function for a run of rows."""
    return pickle.loads(pickled)(received(x), *map(aligned, of_rows))


def collect(samples: list[Array], rows: list[Int64], order: Int64, changes: list[bytes], make: Any) -> Any:
    """Collect rows of samples, put row i at position ``order[i]``, and apply pickled changes."""
    collected = np.concatenate([sample[numbers] for sample, numbers in zip(samples, rows, strict=True)])
    x = np.empty_like(collected)
    x[order] = collected
    for change in changes:
        x = pickle.loads(change)(x, threads.resolve(None))
    return make(x)


def _identity(value: Any) -> Any:
    return value
