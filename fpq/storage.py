"""Saving and loading. A class takes part with two methods, `Storable._state` and `Storable._from_state`."""

from __future__ import annotations

import contextlib
import io
import math
import mmap as mmaps
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from fpq import _format, _settings, threads
from fpq._arrays import aligned_empty
from fpq._checks import Array
from fpq._format import Digests, Extent, FormatError, Layout
from fpq.threads import Call

__all__ = ["FormatError", "Layout", "State", "Storable", "Stored", "describe", "load"]

PIECE_BYTES = 1 << 23  # Ctrl-C is heeded between two reads or writes

S = TypeVar("S", bound="Storable")


class State(NamedTuple):
    """What an object stores: parameters that JSON can express, and arrays under plain names."""

    params: dict[str, Any]
    arrays: dict[str, Array]

    def joined(self, *others: State) -> State:
        """With others, in one."""
        state = State(dict(self.params), dict(self.arrays))
        for other in others:
            state.params.update(other.params)
            state.arrays.update(other.arrays)
        return state


class Storable(_settings.Checked):
    """A class whose objects can be saved, loaded and pickled.

    ``class C(Storable, kind="C")`` writes `_state` and reads it back in `_from_state`; nothing else is to be done.
    """

    _kinds: ClassVar[dict[str, type[Storable]]] = {}
    _kind: ClassVar[str]
    _file: Stored | None = None  # of an object whose arrays are mapped

    n_threads = _settings.Setting(_settings.thread_count)
    verbose = _settings.Setting(_settings.flag)

    def __init_subclass__(cls, *, kind: str | None = None, **options: Any) -> None:
        """Register the class under the name that files know it by."""
        super().__init_subclass__(**options)
        if kind is not None:
            cls._kind = kind
            Storable._kinds[kind] = cls

    def _state(self) -> State:
        """What to store. How the object runs (n_threads, verbose) is not part of it."""
        raise NotImplementedError

    @classmethod
    def _from_state(cls: type[S], stored: Stored) -> S:
        """An object from what is stored: take every parameter and array; errors of any kind mean a bad file."""
        raise NotImplementedError

    def _inputs(self) -> tuple[str, ...]:
        """Files that the object goes on reading and that `save` must not write over."""
        return ()

    def _reading(self) -> contextlib.AbstractContextManager[Any]:
        """Held while the state is read."""
        return contextlib.nullcontext()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `fpq.load` reads. n_threads and verbose are not stored.

        The file is written beside `path` under another name, brought to the disk and renamed: whatever happens on the
        way, `path` is either as it was or the whole new file. Arrays are not copied.

        Raises
        ------
        OSError
            If the file cannot be written; what was there is as before.
        ValueError
            If it is the file of the vectors that the index reads, or if `load` would refuse the file, as something in
            the object has been overwritten; what was there is as before.

        Examples
        --------
        >>> import fpq, numpy as np, pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "points.fpq")
        >>> fpq.FlatIndex().add(np.eye(3)).save(path)
        >>> fpq.load(path).search(np.ones(3), k=1).ids.tolist()
        [0]
        """
        refuse_input(path, self._inputs())
        with self._reading():
            params, arrays = self._loadable_state()
            pieces = {name: _format.as_bytes(array) for name, array in arrays.items()}
            with _replacing(Path(path)) as file, _format.Digests(threads.resolve(None)) as digests:
                begun = {name: digests.begin(piece) for name, piece in pieces.items()}
                blank = dict.fromkeys(pieces, _format.BLANK)
                for piece in _cut([_format.header(self._kind, params, arrays, blank), *pieces.values()]):
                    _write_through(file, piece)
                file.seek(0)
                found = {name: digests.end(chunks) for name, chunks in begun.items()}
                file.write(_format.header(self._kind, params, arrays, found))

    def verify(self) -> None:
        """Check the arrays of an object that was loaded with ``mmap=True``, as a plain load does.

        Raises
        ------
        FormatError
            If the file is damaged.
        """
        if self._file is not None:
            _restore(Stored(self._file.layout, self._file.source, mapped=True, checked=True))

    def _loadable_state(self) -> State:
        """The state, arrays in file order, seen to be one that `load` takes but for arrays that grow with the rows."""
        params, held = self._state()
        try:
            arrays = _format.in_file_order(held)
            header = _format.header(self._kind, params, arrays, dict.fromkeys(arrays, _format.BLANK))
            size = len(header) + sum(array.nbytes for array in arrays.values())
            head, text = header[:8], header[8 : 8 + _format.header_size(header[:8], size)]
            _restore(Stored(_format.parse(head, text, size), held, mapped=False, checked=False))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{self._kind}: what it holds could not be loaded again: {error}") from error
        return State(params, arrays)

    def _pieces(self) -> list[bytes | memoryview]:
        params, arrays = self._state()
        return _format.encode(self._kind, params, arrays, threads.resolve(None))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle goes through the bytes of a file."""
        with self._reading():
            params, arrays = self._loadable_state()
            data = b"".join(_format.encode(self._kind, params, arrays, threads.resolve(None)))
        return _from_bytes, (data, self.n_threads, self.verbose)


class Check(NamedTuple):
    """What an array has to fulfil."""

    expected: str
    holds: Callable[[Array], bool]


class Stored:
    """What a file holds. Each piece is checked when it is asked for, and memory is taken only after its check."""

    def __init__(
        self,
        layout: Layout,
        source: Any,
        *,
        mapped: bool,
        checked: bool,
        n_threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.layout = layout
        self.params = layout.params
        self.source = source  # a binary file, the bytes of one, or the arrays themselves
        self.mapped = mapped
        self.checked = checked
        self.n_threads = n_threads
        self.verbose = verbose
        self._taken: set[str] = set()
        self._parts: list[Stored] = []
        self._arrays = set(layout.arrays)

    def take(self, *names: str) -> dict[str, Any]:
        """Parameters by name, as JSON has them: whoever gets them judges them."""
        for name in names:
            if name not in self.params:
                raise FormatError(f"{name}: expected this parameter")
        self._taken.update(names)
        return {name: self.params[name] for name in names}

    def count(self, name: str, low: int = 0, most: int = (1 << 63) - 1) -> int:
        """A parameter that is an integer from `low` on."""
        (value,) = self.take(name).values()
        if type(value) is not int or not low <= value <= most:
            raise FormatError(f"{name}: expected an integer of at least {low}, got {value!r}")
        return value

    def optional_count(self, name: str, low: int = 0) -> int | None:
        """A parameter that is null or an integer from `low` on."""
        return self.count(name, low) if self.take(name)[name] is not None else None

    def number(self, name: str) -> float:
        """A parameter that `as_number` has written."""
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
        """The parameters of a part of the object; arrays are common to all parts."""
        (params,) = self.take(name).values()
        if not isinstance(params, dict):
            raise FormatError(f"{name}: expected a JSON object, got {params!r}")
        part = Stored(
            self.layout._replace(params=params), self.source,
            mapped=self.mapped, checked=self.checked, n_threads=self.n_threads, verbose=self.verbose,
        )  # fmt: skip
        part._arrays = self._arrays
        self._parts.append(part)
        return part

    def has(self, name: str) -> bool:
        """Whether there is an array of that name."""
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
        """An array of just this type and shape, for which all `checks` hold.

        A `bulk` array is one that grows with the rows of an index: in a mapped file it stays there, unchecked until
        `verify`. Nothing may be read out of bounds because of what it holds. All other arrays are read and checked.
        """
        extent = self._extent(name)
        dtypes = [np.dtype(d) for d in (dtype if isinstance(dtype, tuple) else (dtype,))]
        if extent.dtype not in dtypes or extent.shape != shape:
            expected = f"{' or '.join(map(str, dtypes))} {shape}"
            raise FormatError(f"{name}: expected {expected}, got {extent.dtype} {extent.shape}")
        self._arrays.discard(name)
        if isinstance(self.source, dict):
            array: Array = np.ascontiguousarray(self.source[name])
            self._judge(name, array, () if bulk else checks)
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
        self._judge(name, array, checks if check else ())
        return array

    def _judge(self, name: str, array: Array, checks: Iterable[Check]) -> None:
        for each in checks:
            if not each.holds(array):
                raise FormatError(f"{name}: expected {each.expected}")

    def _extent(self, name: str) -> Extent:
        if name not in self.layout.arrays:
            raise FormatError(f"{name}: expected this array")
        return self.layout.arrays[name]

    def _map(self, extent: Extent) -> memoryview:
        return memoryview(self.source)[extent.start : extent.start + extent.nbytes]

    def _read(self, name: str, extent: Extent, digests: Digests) -> tuple[memoryview, list[Call[bytes]]]:
        """The bytes of an array, and their digest as it is being worked out."""
        data = aligned_empty(extent.nbytes, dtype=np.uint8).data
        if isinstance(self.source, (bytes, mmaps.mmap)):
            data[:] = self._map(extent)
            return data, digests.begin(data)
        self.source.seek(extent.start)
        begun = []
        for start in range(0, len(data), PIECE_BYTES):
            piece = data[start : start + PIECE_BYTES]
            if self.source.readinto(piece) != len(piece):
                raise FormatError(f"{name}: the file ends too early")
            begun += digests.begin(piece)
        return data, begun

    def finish(self) -> None:
        """See that nothing has been left over."""
        left = sorted(set(self.params) - self._taken) + sorted(self._arrays)
        if left:
            raise FormatError(f"expected nothing more, got {', '.join(left)}")
        for part in self._parts:
            part.finish()


def as_number(value: float) -> float | str:
    """A float as JSON has it, or as a string if it is not finite."""
    return value if math.isfinite(value) else str(value)


def _all_finite(array: Array) -> bool:
    flat = array.reshape(-1)
    return all(bool(np.isfinite(flat[i : i + PIECE_BYTES]).all()) for i in range(0, len(flat), PIECE_BYTES))


def _all_unique(array: Array) -> bool:
    in_order = np.sort(array)
    return not (in_order[1:] == in_order[:-1]).any()


def below(limit: int) -> Check:
    """That all numbers are below `limit`."""
    return Check(f"numbers below {limit}", lambda array: array.size == 0 or int(array.max()) < limit)


finite = Check("finite numbers", _all_finite)
non_negative = Check("numbers of at least 0", lambda array: array.size == 0 or bool(array.min() >= 0))
unique = Check("numbers that are all different", _all_unique)


def load(path: str | os.PathLike[str], *, mmap: bool = False) -> Any:
    """An object from a file that `save` has written.

    Parameters
    ----------
    path : path
    mmap : bool, default False
        Leave the vectors, codes and ids of an index in the file, mapped into memory: loading takes milliseconds,
        processes share the memory, and pages come from the disk when they are first used. Such an index cannot be
        changed, and its mapped arrays are checked only by ``verify()``. The file must not be written to or cut
        meanwhile; replacing it by `save` is safe (not on Windows, which refuses it).

    Returns
    -------
    KMeans, ProductQuantizer or an index
        Of the class that was saved, with the default n_threads and verbose.

    Raises
    ------
    FormatError
        If the file is of another format or version, or damaged in any way. No code in the file is ever run.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import fpq, numpy as np, pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "points.fpq")
    >>> fpq.FlatIndex().add(np.eye(3), ids=[7, 8, 9]).save(path)
    >>> index = fpq.load(path, mmap=True)
    >>> index.verify()
    >>> index.search(np.array([0.0, 1, 0]), k=1).ids.tolist()
    [8]
    """
    try:
        with _open(path) as file:
            layout = _layout(file, os.fstat(file.fileno()).st_size)
            source = mmaps.mmap(file.fileno(), 0, access=mmaps.ACCESS_READ) if mmap else file
            return _restore(Stored(layout, source, mapped=mmap, checked=not mmap))
    except FormatError as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error


def describe(path: str | os.PathLike[str]) -> Layout:
    """The checked header of a file: kind, params, and arrays by name with their dtype, shape and nbytes.

    Raises
    ------
    FormatError, OSError
        As `load`, as far as the header goes.
    """
    with _open(path) as file:
        try:
            return _layout(file, os.fstat(file.fileno()).st_size)
        except FormatError as error:
            raise FormatError(f"{os.fspath(path)}: {error}") from error


def _open(path: str | os.PathLike[str]) -> Any:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would block, a device never end
        raise FormatError(f"{os.fspath(path)}: expected a regular file")
    return io.open(path, "rb", buffering=0)  # noqa: UP020 -- `open` is gone when the last objects are deleted


def _layout(file: Any, size: int) -> Layout:
    head = file.read(8)
    text = file.read(_format.header_size(head, size))
    return _format.parse(head, text, size)


def _from_bytes(data: bytes, n_threads: int | None, verbose: bool) -> Storable:
    head = data[:8]
    text = data[8 : 8 + _format.header_size(head, len(data))]
    layout = _format.parse(head, text, len(data))
    return _restore(Stored(layout, data, mapped=False, checked=True, n_threads=n_threads, verbose=verbose))


def _restore(stored: Stored) -> Storable:
    kind = Storable._kinds.get(stored.layout.kind)
    if kind is None:
        raise FormatError(f"kind: expected one of {', '.join(Storable._kinds)}, got {stored.layout.kind!r}")
    try:
        thing = kind._from_state(stored)
        stored.finish()
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(str(error)) from error
    if stored.mapped:
        thing._file = stored
    return thing


def refuse_input(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise ValueError if a file to write is one of `inputs`, by whatever name or link."""
    for file in inputs:
        try:
            same = os.path.samefile(path, file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if same:
            raise ValueError(f"{os.fspath(path)}: expected another file to write to than the input {os.fspath(file)}")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A file to write that takes the place of `path` at the end: at any moment, on disk too, the old or the new one."""
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is not a regular file")
    beside = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        with io.open(beside, "xb") as file:  # noqa: UP020
            if path.exists():
                os.chmod(beside, stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write_through(file: Any, piece: memoryview) -> None:
    """Write, and have the disk begin with it while digests are worked out: what `fsync` is to wait for grows less."""
    start = file.tell()
    file.write(piece)
    if hasattr(os, "posix_fadvise"):
        file.flush()
        with contextlib.suppress(OSError):  # a hint
            os.posix_fadvise(file.fileno(), start, len(piece), os.POSIX_FADV_DONTNEED)


def _cut(pieces: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    for piece in pieces:
        for start in range(0, len(piece), PIECE_BYTES):
            yield memoryview(piece)[start : start + PIECE_BYTES]
