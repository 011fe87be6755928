"""Files on the disk: opened if regular, replaced as a whole, never written over an input."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from fpq._format import FormatError

PIECE_BYTES = 1 << 23  # bytes of one read or write: Python handles Ctrl-C between two of them


def open_regular(path: str | os.PathLike[str]) -> Any:
    """A regular file, opened without a buffer; FormatError for a pipe, which would block, or an endless device."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise FormatError(f"{os.fspath(path)}: expected a regular file")
    return io.open(path, "rb", buffering=0)  # noqa: UP020 -- at exit, `open` is deleted before the last objects


def refuse_input(path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str]]) -> None:
    """Raise ValueError if the output file `path` is one of `inputs`, under any name or link."""
    for file in inputs:
        try:
            same = os.path.samefile(path, file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if same:
            raise ValueError(f"{os.fspath(path)}: expected another file to write to than the input {os.fspath(file)}")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A new file that replaces `path` when the block ends without an error.

    The replacement is atomic, also when the machine loses power: `path` holds either the old or the whole new content.
    """
    given, path = path, Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{given}: expected an existing folder, got {given.parent}")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is not a regular file")
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        with io.open(temporary, "xb") as file:  # noqa: UP020
            if path.exists():
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        _rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _rename(temporary: Path, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except PermissionError as error:
        if os.name != "nt":
            raise
        reason = f"expected a file that may be replaced, not one that is open or mapped: {error.strerror}"
        raise PermissionError(error.errno, reason, str(path)) from error


def write_through(file: Any, piece: memoryview) -> None:
    """Write `piece`, and have the system start the transfer to the disk.

    The transfer overlaps with the computation of digests, and the final `fsync` waits for less data.
    """
    start = file.tell()
    file.write(piece)
    if hasattr(os, "posix_fadvise"):
        file.flush()
        with contextlib.suppress(OSError):  # the call is only a hint
            os.posix_fadvise(file.fileno(), start, len(piece), os.POSIX_FADV_DONTNEED)


def pieces(buffers: Iterable[bytes | memoryview]) -> Iterator[memoryview]:
    """The bytes of all buffers, at most PIECE_BYTES at a time."""
    for buffer in buffers:
        for start in range(0, len(buffer), PIECE_BYTES):
            yield memoryview(buffer)[start : start + PIECE_BYTES]
