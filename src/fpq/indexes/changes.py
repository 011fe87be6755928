"""What changes an index: `fit`, `add`, `remove`, and the methods made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from fpq import _checks, _settings, progress, threads
from fpq._arrays import GrowingArray
from fpq._checks import Array, Int64
from fpq.indexes.parts.ids import Commit, Ids, Removal, no_op
from fpq.indexes.parts.lock import Lock, reads, uninterrupted, writes
from fpq.indexes.parts.vector_file import VectorFile
from fpq.indexes.parts.vectors import Vectors
from fpq.metric import BY_NAME, METRICS, NAMES_ELSEWHERE, MetricName
from fpq.progress import Progress
from fpq.storage import Storable

NOTHING: Int64 = np.empty(0, dtype=np.int64)

Self = TypeVar("Self", bound="Changes")


def write_nothing(advance: progress.Advance) -> None:
    """Write no rows."""


class Addition(NamedTuple):
    """New rows of an index. `write` may fail; `commit` and `clear` cannot."""

    commit: Commit  # makes the written rows visible
    write: Callable[[progress.Advance], None] = write_nothing  # writes and counts the rows behind the visible rows
    clear: Commit = no_op  # zeroes the written rows


class Changes(Storable, ABC):
    """Rows with ids, and every change of them.

    Public methods that read an index are decorated with `reads`, those that change an index with `writes`. Every change
    has one order: check the input, prepare (may fail), commit (cannot fail).
    """

    metric = _settings.Fixed(_settings.choice(*(each.name for each in METRICS.values()), elsewhere=NAMES_ELSEWHERE))

    _state_names: tuple[str, ...] = ("_ids", "_vectors")  # attributes of the class that fit, add and remove change
    _bound_by = ""  # for the message of `fit` if the index holds rows; empty if `fit` learns nothing
    _max_rows = _checks.MOST

    _vectors: Vectors | VectorFile

    def __init__(
        self, metric: MetricName, n_threads: int | None, verbose: bool | Callable[[Progress], None] = False
    ) -> None:
        self.metric = metric
        self._metric = BY_NAME[self.metric]
        self.n_threads = n_threads
        self.verbose = verbose
        self._ids = Ids()
        self._vectors = Vectors()
        self._lock = Lock()

    @property
    @abstractmethod
    def dim(self) -> int | None:
        """Dimension of the vectors; None while unknown."""

    @property
    @abstractmethod
    def is_trained(self) -> bool:
        """Whether vectors can be added."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all arrays of the index."""

    def _require_trained(self) -> None:
        if not self.is_trained:
            raise ValueError(f"{type(self).__name__} is not trained: call fit first")

    @property
    @reads
    def ids(self) -> Int64:
        """The ids in the index, int64 (n,), in arbitrary order."""
        return self._ids.values.copy()

    def __len__(self) -> int:
        return self._ids.n

    @reads
    def __contains__(self, number: object) -> bool:
        """Whether an id is in the index.

        Anything but an integer is not: like a set of integers, ``"7" in index`` is False. The time does not depend on
        the number of vectors after the first look-ups, which build a hash table.

        Raises
        ------
        TypeError
            For a list or an array of ids.

        Examples
        --------
        >>> import numpy as np, fpq
        >>> index = fpq.FlatIndex().add(np.eye(3), ids=[7, 8, 9])
        >>> 7 in index, 1 in index
        (True, False)
        """
        wanted = _checks.one_id(number)
        return wanted is not None and bool(self._ids.rows_or_missing(wanted)[0] >= 0)

    def _reading(self) -> AbstractContextManager[Any]:
        return self._lock.reading()

    def _require_writable(self) -> None:
        if self._file is not None:
            raise ValueError("the index is mapped from a file and cannot be changed: load the file with mmap=False")

    def _reserve(self, n: int) -> None:
        """Allocate memory for `n` rows in total before they are added."""

    def _restoring(self) -> Callable[[], None]:
        """A function that undoes all additions after this call, and cannot fail."""
        names = {name for kind in type(self).__mro__ for name in vars(kind).get("_state_names", ())}
        state = {name: value for name, value in vars(self).items() if name in names}
        before = {name: value.snapshot() if hasattr(value, "snapshot") else value for name, value in state.items()}
        clear = self._clearing()

        def restore() -> None:
            vars(self).update(before)
            clear()

        return restore

    def _clearing(self) -> Commit:
        """A function that zeroes everything written behind the present rows, and cannot fail."""
        return no_op

    @property
    def _limited(self) -> bool:
        """Whether codes depend on the number of rows per `add`."""
        return False

    def _require_empty(self) -> None:
        if len(self) and self._bound_by:
            raise ValueError(f"fit: the index holds {len(self)} vectors {self._bound_by}")

    def _fit(self, fitting: Callable[..., Commit], *rows: Any) -> None:
        """Carry out `fit` with `fitting`: `_fitting` or another function that learns from `rows`."""
        self._require_empty()
        commit = fitting(*rows)
        with uninterrupted():
            commit()

    @abstractmethod
    def _fitting(self, X: Any) -> Commit:
        """Check X and learn from its rows; the commit leaves an index without rows."""

    def _add(self, X: Any, ids: Any) -> None:
        """Carry out `add`."""
        self._require_trained()
        if getattr(ids, "ndim", 1) == 2 and getattr(X, "ndim", 2) == 1:
            raise ValueError(f"X: expected add(X, ids), got an array of shape {np.shape(X)} first")
        x = self._checked(X)
        with progress.method(self, "add", len(x)):
            self._append(x, self._ids.new(ids, len(x)), NOTHING)

    def _checked(self, X: Any) -> Any:
        """The checked rows of X."""
        return _checks.vectors("X", X, dim=self.dim, n_threads=threads.resolve(self.n_threads))

    def _append(self, x: Any, given: Int64 | None, leaving: Int64) -> None:
        """Add checked rows with checked ids; those in the places `leaving` are about to be removed."""
        n_threads = threads.resolve(self.n_threads)
        self._append_rows(
            len(x), given,
            lambda ids: self._write_vectors(x, ids, n_threads),
            lambda ids, kept: self._adding(x, ids, kept, leaving, n_threads),
        )  # fmt: skip

    def _append_rows(
        self, n_new: int, given: Int64 | None, keep: Callable[[Int64], GrowingArray | None],
        adding: Callable[[Int64, Array | None], Addition],
    ) -> None:  # fmt: skip
        """Add `n_new` rows, of which `keep` writes the vectors and `adding` prepares the rest."""
        first, n = len(self), len(self) + n_new
        if n > self._max_rows:
            raise ValueError(f"X: expected at most {self._max_rows} vectors in the index, got {n} with these")
        new_ids = self._ids.numbered(given, n_new)
        vectors = keep(new_ids)
        addition = adding(new_ids, None if vectors is None else vectors.data[first:n])
        try:
            with progress.stage("rows", n_new, "rows") as advance:
                addition.write(advance)
            commit_ids = self._ids.adding(given, n_new)
            with uninterrupted():
                commit_ids()
                addition.commit()
                if vectors is not None:
                    self._vectors.commit(vectors, n)
        except BaseException:
            with uninterrupted():
                if len(self) < n:  # otherwise the error is an interrupt that was deferred until after the commit
                    addition.clear()
            raise

    def _write_vectors(self, x: Array, ids: Int64, n_threads: int) -> GrowingArray | None:
        """Write `x` behind the kept vectors, for a later commit; None if the index keeps no vectors."""
        return self._vectors.write(x, ids, normalize=self._metric.unit_length, n_threads=n_threads)

    @abstractmethod
    def _adding(self, x: Array, ids: Int64, kept: Array | None, leaving: Int64, n_threads: int) -> Addition:
        """Prepare checked rows with new ids; `kept` are these rows as kept in the index, or None.

        The limits of codes and lists are those without the rows in the places `leaving`, which `update` removes next.
        """

    @writes
    def remove(self, ids: ArrayLike) -> int:
        """Remove the vectors with these ids. Ids that are not in the index are ignored; other ids do not change.

        An E2LSHIndex rewrites all its tables: removing many ids in one call takes about as long as removing one.

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
            If ids are not as described, or the index is mapped from a file. The index is then unchanged.
        """
        rows = self._ids.known_rows(np.unique(_checks.id_array("ids", ids)))
        commit = self._removing_rows(rows, self._places(rows))
        with uninterrupted():
            commit()
        return len(rows)

    def _places(self, rows: Int64) -> Int64:
        """Where these rows have their codes."""
        return rows

    def _removing_rows(self, rows: Int64, places: Int64, n_new: int = 0) -> Commit:
        """Prepare the removal of ascending rows, with codes in these places; `n_new` rows at the end are new."""
        if not len(rows):
            return no_op
        removal = self._ids.plan_removal(rows, n_new)
        commit_own = self._removing(removal, places)
        commit_ids, commit_vectors = self._ids.removing(removal), self._vectors.removing(removal)

        def commit() -> None:
            commit_vectors()
            commit_own()
            commit_ids()

        return commit

    @abstractmethod
    def _removing(self, removal: Removal, places: Int64) -> Commit:
        """Prepare the removal of at least one row; the commit moves other rows to the holes."""

    @writes
    def update(self: Self, X: ArrayLike, ids: ArrayLike) -> Self:
        """Replace the vectors with these ids. Ids that are not in the index are added.

        The index then gives the answers that it would give after ``remove(ids)`` and ``add(X, ids)``, but no search of
        another thread finds the vectors missing, and a failed or interrupted call leaves the index as it was. An
        E2LSHIndex rewrites all its tables: replacing many vectors in one call takes about as long as replacing one.

        Parameters
        ----------
        X : array (n, d)
        ids : int array (n,)
            Unique, at least 0.

        Raises
        ------
        ValueError, TypeError
            If the index is not trained, X or ids are not as described, the index is mapped from a file, or it reads its
            vectors from a file (`keep_vectors` is a path), where the vector of an id does not change.

        Examples
        --------
        >>> import numpy as np, fpq
        >>> index = fpq.FlatIndex().add(np.eye(3))
        >>> index.update([[5, 5, 5], [6, 6, 6]], ids=[1, 7]).reconstruct([1, 7]).tolist()
        [[5.0, 5.0, 5.0], [6.0, 6.0, 6.0]]
        """
        self._require_trained()
        if isinstance(self._vectors, VectorFile):
            raise ValueError(
                f"update: expected an index that holds its vectors, got one that reads them from {self._vectors.path}: "
                "remove the ids, and add vectors with the ids of new rows of the file"
            )
        x = self._checked(X)
        given = self._ids.different(ids, len(x))
        rows = self._ids.known_rows(given)
        places = self._places(rows)
        restore, done = self._restoring(), False
        try:
            with progress.method(self, "update", len(x)):
                self._append(x, given, places)  # some ids have two rows for now
            commit = self._removing_rows(rows, places, len(x))
            with uninterrupted():
                commit()
                done = True
        except BaseException:
            with uninterrupted():
                if not done:
                    restore()
            raise
        return self

    def merge(self: Self, other: Self) -> Self:
        """Add the vectors of another index of the same class and with the same training, with their ids.

        Codes and kept vectors are taken over as they are. `other` does not change. The two indexes must have learned
        the same: start from one trained index and its `copy`, or from one saved file. With OpenIndexing the counters of
        both are added up. With `list_capacity` vectors stay in their lists, and the limit holds again after the next
        `add`. Two threads may merge two indexes into each other.

        Parameters
        ----------
        other : index of the same class

        Raises
        ------
        TypeError
            If `other` is not an index of the same class.
        ValueError
            If `other` is this index, has another metric, other parameters or another training, or an id is in both
            indexes; or if an index is not trained, or this index is mapped from a file. The index is then unchanged.

        Examples
        --------
        >>> import numpy as np, fpq
        >>> index = fpq.FlatIndex().add(np.eye(3))
        >>> other = fpq.FlatIndex().add(np.eye(3), ids=[7, 8, 9])
        >>> index.merge(other).ids.tolist()
        [0, 1, 2, 7, 8, 9]
        """
        if not isinstance(other, Changes) or other._kind != self._kind:
            raise TypeError(f"other: expected {type(self).__name__}, got {type(other).__name__}")
        if other is self:
            raise ValueError("other: expected another index, got this index itself")
        # All threads take the locks of two indexes in one order, so that none waits for another in a circle.
        with other._reading() if id(other) < id(self) else nullcontext():
            return self._merge(other)

    @writes
    def _merge(self: Self, other: Self) -> Self:
        with other._reading():
            self._require_trained()
            other._require_trained()
            mine, theirs = self._training(), other._training()
            for name in [name for name in mine if name in theirs and not _same(mine[name], theirs[name])]:
                learned = isinstance(mine[name], (np.ndarray, tuple))
                shown = "" if learned else f" = {mine[name]!r}, got {theirs[name]!r}"
                raise ValueError(f"other: expected an index with the same {name}{shown}")
            given = self._ids.new(other._ids.values, len(other))
            if len(other):
                with progress.method(self, "merge", len(other)):
                    self._append_rows(
                        len(other), given,
                        lambda ids: self._take_vectors(other, ids),
                        lambda ids, kept: self._merging(other, ids, kept, threads.resolve(self.n_threads)),
                    )  # fmt: skip
        return self

    def _training(self) -> dict[str, Any]:
        """What two indexes must have in common to be merged, by name."""
        return {"metric": self.metric, **({} if self.dim is None else {"dim": self.dim})}

    def _take_vectors(self: Self, other: Self, ids: Int64) -> GrowingArray | None:
        """Write the kept vectors of another index behind those of this index."""
        return self._vectors.write(other._vectors.data, ids)

    def _merging(self: Self, other: Self, ids: Int64, kept: Array | None, n_threads: int) -> Addition:
        """Prepare the rows of another index of the same training; `kept` are their vectors as kept in this index."""
        return self._adding(other._vectors.data, ids, kept, NOTHING, n_threads)

    @abstractmethod
    def _no_rows(self) -> dict[str, Any]:
        """The attributes of the index without rows, but for the ids."""

    @writes
    def reset(self: Self) -> Self:
        """Remove all vectors and keep the training; ids start again at 0.

        The memory of the vectors is released. A FlatIndex, which learns nothing, then takes vectors of any dimension.
        (After ``remove(index.ids)``, ids go on after the largest id ever used.)

        Raises
        ------
        ValueError
            If the index is mapped from a file.

        Examples
        --------
        >>> import numpy as np, fpq
        >>> index = fpq.FlatIndex().add(np.eye(3))
        >>> len(index.reset()), index.add(np.eye(2)).ids.tolist()
        (0, [0, 1])
        """
        empty = {**self._no_rows(), "_ids": Ids()}
        with uninterrupted():
            vars(self).update(empty)
        return self

    @reads
    def copy(self: Self) -> Self:
        """An index of its own with the same training, vectors and settings.

        The copy shares no memory with this index: changes of one do not show in the other. The copy of a mapped index
        is in memory and can be changed. An index that reads its vectors from a file (`keep_vectors` is a path) and its
        copy read the same file.

        Raises
        ------
        ValueError
            If the file of the vectors cannot be read any more.

        Examples
        --------
        >>> import numpy as np, fpq
        >>> index = fpq.FlatIndex().add(np.eye(3))
        >>> twin = index.copy().add(np.eye(3))
        >>> len(index), len(twin)
        (3, 6)
        """
        return self._duplicate()


def _same(a: Any, b: Any) -> bool:
    """Whether two parameters are equal: settings, arrays, or tuples of these."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.array_equal(a, b)
    return bool(a == b)
