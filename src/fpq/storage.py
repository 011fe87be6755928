"""Saving and loading of objects. A class gives two methods: `Storable._state` and `Storable._from_state`."""

from __future__ import annotations

import contextlib
import math
import mmap as mmaps
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import DTypeLike

from fpq import _bfloat16, _files, _format, _settings, progress, threads
from fpq._arrays import aligned_empty, copy_rows
from fpq._checks import Array
from fpq._files import PIECE_BYTES
from fpq._format import Digests, Extent, FormatError, Layout
from fpq.progress import Progress
from fpq.threads import Call

__all__ = ["FormatError", "Layout", "State", "Storable", "Stored", "describe", "load"]

S = TypeVar("S", bound="Storable")
T = TypeVar("T")


class State(NamedTuple):
    """The stored state of an object: parameters that JSON can express, and arrays by name."""

    params: dict[str, Any]
    arrays: dict[str, Array]

    def joined(self, *others: State) -> State:
        """The union of this state and `others`."""
        state = State(dict(self.params), dict(self.arrays))
        for other in others:
            state.params.update(other.params)
            state.arrays.update(other.arrays)
        return state


class Storable(_settings.Checked):
    """A class whose objects can be saved, loaded and pickled.

    ``class C(Storable, kind="C")`` gives its state in `_state` and makes an object of it in `_from_state`.
    """

    _kinds: ClassVar[dict[str, type[Storable]]] = {}
    _kind: ClassVar[str]
    _file: Stored | None = None  # the file of an object with mapped arrays

    n_threads = _settings.Setting(_settings.thread_count)
    verbose = _settings.Setting[bool | Callable[[Progress], None]](_settings.flag_or_function)

    def __init_subclass__(cls, *, kind: str | None = None, **options: Any) -> None:
        """Register the class under `kind`, its name in files."""
        super().__init_subclass__(**options)
        if kind is not None:
            cls._kind = kind
            Storable._kinds[kind] = cls

    def _state(self) -> State:
        """The state to store, without n_threads and verbose."""
        raise NotImplementedError

    @classmethod
    def _from_state(cls: type[S], stored: Stored) -> S:
        """An object from its stored state. Must take every parameter and array; any error means a damaged file."""
        raise NotImplementedError

    def _inputs(self) -> tuple[str, ...]:
        """Files that the object keeps reading, and that `save` must not overwrite."""
        return ()

    def _reading(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which the state does not change."""
        return contextlib.nullcontext()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the object to a file for `fpq.load`. n_threads and verbose are not stored.

        The write is atomic: a temporary file in the same folder is flushed to the disk and renamed, so `path` holds
        either its old content or the whole new file. Arrays are not copied.

        Parameters
        ----------
        path : path
            An existing file is replaced; after an error it is as before.

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            If `path` is the file of the vectors that the index reads, or if `load` would refuse the file because an
            attribute of the object has been overwritten.

        Examples
        --------
        >>> import fpq, numpy as np, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "points.fpq")
        >>> fpq.FlatIndex().add(np.eye(3)).save(path)
        >>> fpq.load(path).search(np.ones(3), k=1).ids.tolist()
        [0]
        """
        _files.refuse_input(path, self._inputs())
        with self._reading():
            params, arrays = self._loadable_state()
            buffers = {name: _format.as_bytes(array) for name, array in arrays.items()}
            with _files.replacing(Path(path)) as file, _format.Digests(threads.resolve(None)) as digests:
                begun = {name: digests.begin(buffer) for name, buffer in buffers.items()}
                blank = dict.fromkeys(buffers, _format.BLANK)
                with progress.saving(self, sum(map(len, buffers.values()))) as advance:
                    for piece in _files.pieces([_format.header(self._kind, params, arrays, blank), *buffers.values()]):
                        _files.write_through(file, piece)
                        advance(len(piece))
                file.seek(0)
                finished = {name: digests.end(chunks) for name, chunks in begun.items()}
                file.write(_format.header(self._kind, params, arrays, finished))

    def verify(self) -> None:
        """Check the mapped arrays of an object from ``load(path, mmap=True)``, as a load without mmap does.

        Raises
        ------
        FormatError
            If the file is damaged.
        """
        if self._file is not None:
            _restore(Stored(self._file.layout, self._file.source, mapped=True, checked=True))

    def _loadable_state(self) -> State:
        """The state, arrays in file order, checked as by `load`; the content of bulk arrays is not checked."""
        state = self._state()
        return state._replace(arrays=self._rebuilt(state)[0])

    def _rebuilt(self, state: State) -> tuple[dict[str, Array], Storable]:
        """The arrays of a state in file order, and an object of this state, which shares the arrays in memory."""
        try:
            arrays = _format.in_file_order(state.arrays)
            header = _format.header(self._kind, state.params, arrays, dict.fromkeys(arrays, _format.BLANK))
            size = len(header) + sum(array.nbytes for array in arrays.values())
            head, text = header[:8], header[8 : 8 + _format.header_size(header[:8], size)]
            layout = _format.parse(head, text, size)
            return arrays, _restore(Stored(layout, state.arrays, mapped=False, checked=False, n_threads=self.n_threads))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{self._kind}: its state could not be loaded again: {error}") from error

    def _duplicate(self: S) -> S:
        """An object of the same state with arrays of its own, in memory."""
        params, arrays = self._state()
        own = {name: aligned_empty(*array.shape, dtype=array.dtype) for name, array in arrays.items()}
        for name, array in arrays.items():
            copy_rows(array, own[name])
        rebuilt = self._rebuilt(State(params, own))[1]
        twin = object.__new__(type(self))  # keeps the class and the attributes of a subclass
        vars(twin).update(vars(self) | vars(rebuilt), _file=None, verbose=self.verbose is True)
        return twin

    def _pieces(self) -> list[bytes | memoryview]:
        params, arrays = self._state()
        return _format.encode(self._kind, params, arrays, threads.resolve(None))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles and copies go through the bytes of a file. They leave out a function in `verbose`."""
        with self._reading():
            params, arrays = self._loadable_state()
            data = b"".join(_format.encode(self._kind, params, arrays, threads.resolve(None)))
        return _from_bytes, (data, self.n_threads, self.verbose is True)


class Check(NamedTuple):
    """A condition on an array, and the words for it in errors."""

    expected: str
    holds: Callable[[Array], bool]


class Stored:
    """The content of a file. Each parameter and array is checked when it is requested, before memory is allocated."""

    def __init__(
        self, layout: Layout, source: Any, *, mapped: bool, checked: bool, n_threads: int | None = None
    ) -> None:
        self.layout = layout
        self.params = layout.params
        self.source = source  # a binary file, the bytes of a file, or a dict of arrays
        self.mapped = mapped
        self.checked = checked
        self.n_threads = n_threads
        self._taken: set[str] = set()
        self._parts: list[Stored] = []
        self._arrays = set(layout.arrays)

    def take(self, *names: str) -> dict[str, Any]:
        """Parameters by name, as decoded from JSON; the caller checks them."""
        for name in names:
            if name not in self.params:
                raise FormatError(f"{name}: expected this parameter, got none")
        self._taken.update(names)
        return {name: self.params[name] for name in names}

    def count(self, name: str, low: int = 0, most: int = (1 << 63) - 1) -> int:
        """A parameter that is an integer of at least `low`."""
        (value,) = self.take(name).values()
        if type(value) is not int or not low <= value <= most:
            raise FormatError(f"{name}: expected an integer of at least {low}, got {value!r}")
        return value

    def optional_count(self, name: str, low: int = 0) -> int | None:
        """A parameter that is null or an integer of at least `low`."""
        return self.count(name, low) if self.take(name)[name] is not None else None

    def number(self, name: str) -> float:
        """A parameter that was encoded by `as_number`."""
        (value,) = self.take(name).values()
        if type(value) not in (int, float) and value not in ("inf", "-inf", "nan"):
            raise FormatError(f"{name}: expected a number, got {value!r}")
        return float(value)

    def flag(self, name: str) -> bool:
        """A parameter that is true or false."""
        (value,) = self.take(name).values()
        if type(value) is not bool:
            raise FormatError(f"{name}: expected true or false, got {value!r}")
        return value

    def part(self, name: str) -> Stored:
        """The parameters of a part of the object; all parts share the arrays."""
        (params,) = self.take(name).values()
        if not isinstance(params, dict):
            raise FormatError(f"{name}: expected a JSON object, got {params!r}")
        part = Stored(
            self.layout._replace(params=params), self.source,
            mapped=self.mapped, checked=self.checked, n_threads=self.n_threads,
        )  # fmt: skip
        part._arrays = self._arrays
        self._parts.append(part)
        return part

    def has(self, name: str) -> bool:
        """Whether the file contains an array of this name."""
        return name in self.layout.arrays

    def dtype(self, name: str) -> np.dtype[Any]:
        """The element type of an array."""
        return self._extent(name).dtype.newbyteorder("=")

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        return self._extent(name).shape

    def array(
        self,
        name: str,
        dtype: DTypeLike | tuple[DTypeLike, ...],
        shape: tuple[int, ...],
        *checks: Check,
        bulk: bool = False,
    ) -> Array:
        """An array of exactly this type and shape that passes all `checks`.

        A `bulk` array grows with the rows of an index. In a mapped file it is not read, and not checked before
        `verify`: no value of a bulk array may lead to an access out of bounds. All other arrays are read and checked.
        """
        extent = self._extent(name)
        dtypes = [np.dtype(d) for d in (dtype if isinstance(dtype, tuple) else (dtype,))]
        if extent.dtype not in dtypes or extent.shape != shape:
            expected = f"{' or '.join(map(_bfloat16.name_of, dtypes))} {shape}"
            raise FormatError(f"{name}: expected {expected}, got {_bfloat16.name_of(extent.dtype)} {extent.shape}")
        self._arrays.discard(name)
        if isinstance(self.source, dict):
            array: Array = np.ascontiguousarray(self.source[name])
            self._apply(() if bulk else checks, name, array)
            return array
        with _format.Digests(threads.resolve(None) if extent.nbytes > _format.DIGEST_CHUNK else 1) as digests:
            check = self.checked or not bulk
            if self.mapped and bulk:
                data = self._map(extent)
                begun = digests.begin(data) if check else []
            else:
                data, begun = self._read(name, extent, digests)
            if check and digests.end(begun) != extent.digest:
                raise FormatError(f"{name}: the data are damaged: their digest differs")
        array = np.frombuffer(data, extent.dtype).reshape(extent.shape)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        self._apply(checks if check else (), name, array)
        return array

    def _apply(self, checks: Iterable[Check], name: str, array: Array) -> None:
        for check in checks:
            if not check.holds(array):
                raise FormatError(f"{name}: expected {check.expected}")

    def _extent(self, name: str) -> Extent:
        if name not in self.layout.arrays:
            raise FormatError(f"{name}: expected this array, got none")
        return self.layout.arrays[name]

    def _map(self, extent: Extent) -> memoryview:
        return memoryview(self.source)[extent.start : extent.start + extent.nbytes]

    def _read(self, name: str, extent: Extent, digests: Digests) -> tuple[memoryview, list[Call[bytes]]]:
        """The bytes of an array, and the digest that is being computed."""
        data = aligned_empty(extent.nbytes, dtype=np.uint8).data
        if isinstance(self.source, (bytes, mmaps.mmap)):
            data[:] = self._map(extent)
            return data, digests.begin(data)
        self.source.seek(extent.start)
        begun = []
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            if self.source.readinto(piece) != len(piece):
                raise FormatError(f"{name}: expected {len(data)} bytes, got the end of the file")
            begun += digests.begin(piece)
        return data, begun

    def finish(self) -> None:
        """Raise FormatError if a parameter or an array was not taken."""
        unknown = sorted(set(self.params) - self._taken) + sorted(self._arrays)
        if unknown:
            raise FormatError(f"expected no other parameters and arrays, got {', '.join(unknown)}")
        for part in self._parts:
            part.finish()


def as_number(value: float) -> float | str:
    """`value` for JSON: a number, or a string for infinity and NaN."""
    return value if math.isfinite(value) else str(value)


def _all_finite(array: Array) -> bool:
    flat = array.reshape(-1)
    return all(bool(np.isfinite(flat[i : i + PIECE_BYTES]).all()) for i in range(0, len(flat), PIECE_BYTES))


def _all_unique(array: Array) -> bool:
    ascending = np.sort(array)
    return not (ascending[1:] == ascending[:-1]).any()


def below(limit: int) -> Check:
    """The check for numbers below `limit`."""
    return Check(f"numbers below {limit}", lambda array: array.size == 0 or int(array.max()) < limit)


finite = Check("finite numbers", _all_finite)
non_negative = Check("numbers of at least 0", lambda array: array.size == 0 or bool(array.min() >= 0))
unique = Check("numbers that are all different", _all_unique)


@overload
def load(path: str | os.PathLike[str], kind: None = None, *, mmap: bool = False) -> Any: ...
@overload
def load(path: str | os.PathLike[str], kind: type[T], *, mmap: bool = False) -> T: ...
def load(path: str | os.PathLike[str], kind: type[Any] | None = None, *, mmap: bool = False) -> Any:
    """Load an object from a file that `save` wrote.

    Parameters
    ----------
    path : path
    kind : class, optional
        The expected class, such as ``fpq.PQIndex``: other files are refused, and type checkers and editors know what
        `load` returns.
    mmap : bool, default False
        Map the vectors, codes and ids of an index into memory. Loading then takes milliseconds, processes share the
        memory, and a page is read from the disk when it is first used. A mapped index cannot be changed, and only
        ``verify()`` checks its mapped arrays. The file must not be written to or truncated while it is mapped;
        replacing it by `save` is safe (Windows refuses that).

    Returns
    -------
    KMeans, ProductQuantizer or an index
        An object of the saved class, with the default n_threads and verbose.

    Raises
    ------
    FormatError
        If the file has another format or version, holds an object of another class than `kind`, or is damaged.
        Loading never runs code from the file.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import fpq, numpy as np, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "points.fpq")
    >>> fpq.FlatIndex().add(np.eye(3), ids=[7, 8, 9]).save(path)
    >>> index = fpq.load(path, fpq.FlatIndex, mmap=True)
    >>> index.verify()
    >>> index.search(np.array([0.0, 1, 0]), k=1).ids.tolist()
    [8]
    """
    with _opened(path) as (file, layout):
        if kind is not None and not issubclass(Storable._kinds.get(layout.kind, kind), kind):
            raise FormatError(f"expected a saved {kind.__name__}, got a saved {layout.kind}")
        source = mmaps.mmap(file.fileno(), 0, access=mmaps.ACCESS_READ) if mmap else file
        return _restore(Stored(layout, source, mapped=mmap, checked=not mmap))


def describe(path: str | os.PathLike[str]) -> Layout:
    """The checked header of a file: kind, params, and arrays by name with their dtype, shape and nbytes.

    Raises
    ------
    FormatError, OSError
        As `load`, for errors in the header.
    """
    with _opened(path) as (_, layout):
        return layout


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Layout]]:
    """A file and its checked header; a FormatError in the context gets the name of the file."""
    try:
        with _files.open_regular(path) as file:
            head, size = file.read(8), os.fstat(file.fileno()).st_size
            yield file, _format.parse(head, file.read(_format.header_size(head, size)), size)
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error


def _from_bytes(data: bytes, n_threads: int | None, verbose: bool) -> Storable:
    head = data[:8]
    layout = _format.parse(head, data[8 : 8 + _format.header_size(head, len(data))], len(data))
    restored = _restore(Stored(layout, data, mapped=False, checked=True, n_threads=n_threads))
    restored.verbose = verbose
    return restored


def _restore(stored: Stored) -> Storable:
    kind = Storable._kinds.get(stored.layout.kind)
    if kind is None:
        raise FormatError(f"kind: expected one of {', '.join(Storable._kinds)}, got {stored.layout.kind!r}")
    try:
        restored = kind._from_state(stored)
        stored.finish()
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(str(error)) from error
    if stored.mapped:
        restored._file = stored
    return restored
