"""The public class: rows with keys, vectors and metadata that are searched by vector and by condition."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from numpy.typing import ArrayLike, DTypeLike

from fpq import _checks, progress, tuning
from fpq.collection import folding, guard, values
from fpq.collection import metadata as metadata_
from fpq.collection.keys import checked, listed, unique
from fpq.collection.opened import Verbose
from fpq.collection.reading import Params, Reading
from fpq.collection.store import FILE, Store, index_statement
from fpq.indexes.base import Index
from fpq.metric import METRICS, NAMES_ELSEWHERE, MetricName

C = TypeVar("C", bound="Collection")


class Collection(Reading):
    """Vectors with keys and metadata in a folder, searched by vector and by SQL conditions.

    `Collection.create` makes a collection, `Collection.open` opens one. A row has a key, a vector and metadata. When
    `upsert` or `delete` returns, the change is on the disk. One process may write, and any number may read beside it
    with ``read_only=True``. Any number of threads may use one object.

    Searches are exact up to about 20,000 rows. Above that, `fpq.recommend` chooses an index, which is trained and kept
    up to date in the background. New rows are found at once: rows that the index does not contain are searched exactly.
    The distances of hits are always exact.

    Examples
    --------
    >>> import fpq
    >>> with fpq.Collection.create(":memory:") as collection:
    ...     collection.upsert(["a", "b"], [[1.0, 0.0], [0.6, 0.8]], [{"year": 1999}, {"year": 2005}])
    ...     [hit.key for hit in collection.search([1.0, 0.1], k=2)]
    ...     collection.search([1.0, 0.1], where="year > ?", params=[2000])[0].metadata
    ['a', 'b']
    {'year': 2005}
    """

    def __init__(self) -> None:
        raise TypeError("Collection: expected Collection.create(path) or Collection.open(path)")

    @classmethod
    def create(
        cls: type[C],
        path: str | os.PathLike[str],
        dim: int | None = None,
        metric: MetricName = "cosine",
        index: Index | None = None,
        *,
        dtype: DTypeLike = "float32",
        columns: Mapping[str, Any] | None = None,
        indexed: Sequence[str] = (),
        background: bool = True,
        n_threads: int | None = None,
        verbose: Verbose = False,
    ) -> C:
        """Make a collection.

        Parameters
        ----------
        path : path
            A new or empty folder, or ":memory:" for a collection in memory.
        dim : int, optional
            Dimension of the vectors. Default: that of the first vectors.
        metric : {"cosine", "ip", "l2"}, default "cosine"
        index : index, optional
            An index without rows and training, whose settings are used from 1,000 rows on. Default: exact search, and
            from about 20,000 rows on the index that `fpq.recommend` chooses.
        dtype : {"float32", "float16", "uint8", "int8"}, default "float32"
            Element type of the stored vectors.
        columns : dict, optional
            Types of metadata by name: int, float, str, bool, bytes, dict, list, datetime or date. Values of other types
            are then refused. Other names need no declaration.
        indexed : list of str, optional
            Names with an SQL index, which makes selective conditions fast. They need a type in `columns`.
        background : bool, default True
            Train and update the index in a thread. Otherwise only `optimize` does.
        n_threads : int, optional
            Number of threads of a search. Default: all available cores.
        verbose : bool or callable, default False
            Show the progress of `optimize` and `tune`, as for indexes.

        Raises
        ------
        FileExistsError
            If the folder contains a collection.
        ValueError, TypeError
            If an argument is not as described.
        OSError
            If the files cannot be written.
        """
        dim = None if dim is None else _checks.integer("dim", dim, 1)
        metric = _checks.choice("metric", metric, tuple(METRICS), NAMES_ELSEWHERE)
        element = values.element_type(dtype)
        types = metadata_.declared_types(columns)
        names = list(indexed)
        unknown = [name for name in names if name not in types]
        if unknown:
            raise ValueError(f"indexed: expected names in columns, got {unknown[0]!r}")
        own = values.index_bytes(index, metric)
        folder = None if os.fspath(path) == ":memory:" else Path(path)
        if folder is not None:
            if (folder / FILE).exists() and (folder / FILE).stat().st_size:
                raise FileExistsError(f"{folder}: expected no collection, got one: open it")
            folder.mkdir(parents=True, exist_ok=True)
        self = object.__new__(cls)
        store = Store(folder, read_only=False)
        try:
            store.prepare_writer()
            store.create(dim, metric, element, types, names, own)
            self._begin(store, background, n_threads, verbose)
        except BaseException:
            store.close()
            raise
        return self

    @classmethod
    def open(
        cls: type[C],
        path: str | os.PathLike[str],
        read_only: bool = False,
        *,
        background: bool = True,
        n_threads: int | None = None,
        verbose: Verbose = False,
    ) -> C:
        """Open a collection.

        Parameters
        ----------
        path : path
        read_only : bool, default False
            Open beside a writer. The object follows what the writer commits.
        background, n_threads, verbose
            As in `create`.

        Raises
        ------
        FileNotFoundError
            If there is no collection.
        BlockingIOError
            If another object or process has opened the collection for writing.
        FormatError
            If the database or the index file is damaged, or of another version.
        """
        folder = Path(path)
        if not (folder / FILE).is_file():
            raise FileNotFoundError(f"{folder}: expected a collection, got no file {FILE}")
        self = object.__new__(cls)
        store = Store(folder, read_only=bool(read_only))
        try:
            with store.reader.reading() as db:
                settings = store.settings(db)
            if not read_only:
                store.prepare_writer()
                folding.delete_leftovers(store, settings.generation)
            self._begin(store, background, n_threads, verbose)
            self._view.state()
        except BaseException:
            store.close()
            raise
        return self

    def upsert(self, keys: Any, vectors: ArrayLike, metadata: Any = None) -> None:
        """Insert rows, or replace the rows with these keys. All rows are inserted, or none.

        Parameters
        ----------
        keys : list of str, int or UUID
            Different keys of one type, which is the same for all rows of the collection. A single key goes with a
            vector (d,) and a dict.
        vectors : array (n, d)
        metadata : list of dicts, dict of lists, DataFrame or pyarrow.Table, optional
            Values by name: str, int, float, bool, bytes, datetime, date, dicts and lists. None and NaN mean no value. A
            row that is replaced loses its old metadata.

        Raises
        ------
        ValueError, TypeError
            If an argument is not as described. The collection is then unchanged.
        OSError
            If the disk is full or fails. The collection is then unchanged.
        """
        store = self._ready(to_write=True)
        wanted, single = listed(keys)
        with store.writer.writing() as db:
            settings = store.settings(db)
            stored, kind = checked(wanted, settings.keys)
            unique(stored)
            x = values.vectors(vectors, len(stored), single, settings, self.n_threads)
            columns = values.metadata_of(metadata, len(stored), single, settings)
            if not stored:
                return
            if settings.dim is None or settings.keys is None:
                settings = settings._replace(dim=x.shape[1], keys=kind)
                store.set(db, dim=x.shape[1], keys=kind)
            store.upsert(db, settings, stored, x, columns)
        self._fold_if_due(settings, settings.last_id + len(stored) - settings.folded)

    def delete(self, keys: Any = None, *, where: str | None = None, params: Params | None = None) -> int:
        """Delete rows by key or by a condition.

        Parameters
        ----------
        keys : list of keys, or one key
            Keys that are not in the collection are ignored.
        where, params
            Instead of keys: a condition, as in `search`.

        Returns
        -------
        int
            The number of deleted rows.

        Raises
        ------
        ValueError, TypeError, OSError
            As for `upsert`.
        """
        store = self._ready(to_write=True)
        condition = guard.condition_of(where, params)
        if (keys is None) == (condition is None):
            raise ValueError("keys: expected either keys or where")
        wanted = [] if keys is None else listed(keys)[0]
        with store.writer.writing() as db:
            settings = store.settings(db)
            if condition is None:
                ids: list[int] = store.ids(db, list(dict.fromkeys(checked(wanted, settings.keys)[0])))
            else:
                ids = db.guard.ids(db.connection, condition, store.names(db, settings))[0].tolist()
            removed = store.remove(db, ids)
            if removed:
                store.set(db, rows=settings.rows - removed)
        return removed

    def update_metadata(self, keys: Any, metadata: Any) -> None:
        """Set metadata of rows and keep their vectors. Names that are not given keep their values.

        Parameters
        ----------
        keys : list of keys, or one key
        metadata : as in `upsert`
            None deletes a value.

        Raises
        ------
        KeyError
            If a key is not in the collection.
        ValueError, TypeError, OSError
            As for `upsert`. The collection is then unchanged.
        """
        store = self._ready(to_write=True)
        wanted, single = listed(keys)
        with store.writer.writing() as db:
            settings = store.settings(db)
            stored, _ = checked(wanted, settings.keys)
            unique(stored)
            columns = values.metadata_of(metadata, len(stored), single, settings)
            if stored:
                store.edit(db, settings, stored, columns)

    def index_column(self, name: str) -> None:
        """Add an SQL index of a metadata name, which makes selective conditions fast.

        Raises
        ------
        ValueError
            If no row has had a value of this name.
        """
        store = self._ready(to_write=True)
        with store.writer.writing() as db:
            names = store.names(db, store.settings(db))
            if name not in names:
                raise ValueError(f"name: expected one of {', '.join(names) or 'no columns yet'}, got {name!r}")
            db.execute(index_statement(name))

    @progress.reported
    def optimize(self, *, train: bool = False) -> None:
        """Move all rows into the index now, and train the index if it is time.

        Parameters
        ----------
        train : bool, default False
            Train the index in any case.
        """
        self._ready(to_write=True)
        self._fold(train=bool(train))

    @progress.reported
    def tune(self, Q: ArrayLike, k: int = 10, recall: float = 0.95) -> tuning.Tuning | None:
        """Measure search settings on queries, and use the fastest that reaches a recall.

        After each training, the index is tuned on rows that it has not learned from. Real queries are better: they may
        differ from the rows. The result holds until the next training.

        Parameters
        ----------
        Q : array (nq, d)
            Several hundred queries like those of the application.
        k : int, default 10
        recall : float, default 0.95

        Returns
        -------
        fpq.tuning.Tuning or None
            The measurements; None while the collection is searched exactly.

        Raises
        ------
        ValueError, TypeError
            If no setting reaches the recall, or an argument is not as described.
        """
        self._ready(to_write=True)
        k, recall = _checks.integer("k", k, 1), tuning.recall_target(recall)
        queries = _checks.queries(Q, self._state().settings.dim, 1)[0]
        if not len(queries):
            raise ValueError("Q: expected at least one query, got none")
        return self._fold(folding.Tuning(queries, k, recall))
