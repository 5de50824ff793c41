"""Writing files so that neither a crash nor a full disk leaves an incomplete one, and no reader sees one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gan_refine.errors import UserError


@contextmanager
def atomic_file(path: Path, error: type[UserError] | None = None) -> Iterator[BinaryIO]:
    """A new file in the folder of `path`, readable too, renamed to it when the block ends well and removed when it does not.

    Once the block has ended the file is on the disk, its name included. Raises OSError, or `error` in its place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as cause:
        if error is None:
            raise
        advice = "choose a folder that exists, is writable and has room"
        raise error(f"{path} cannot be written ({cause.strerror}); {advice}") from cause
    finally:
        temporary.unlink(missing_ok=True)


def why_not_writable(folder: Path) -> str | None:
    """Why no file can be made in `folder`, or the folder itself cannot be; None if it can. Tries it and leaves nothing behind."""
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    try:
        with tempfile.TemporaryFile(dir=existing):
            return None
    except OSError as error:
        return error.strerror or str(error)


def require_writable(option: str, folder: Path) -> None:
    """Raises UserError if no file can be made in `folder`, which `option` names: before anything that takes time."""
    reason = why_not_writable(folder)
    if reason is not None:
        raise UserError(f"cannot write to {option}={folder} ({reason}); choose a folder that you may write to")


def _sync_folder(folder: Path) -> None:
    """Without this a renamed file may be lost in a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy_atomic(source: Path, path: Path) -> None:
    """The bytes of `source` as `path`."""
    with open(source, "rb") as reader, atomic_file(path) as writer:
        shutil.copyfileobj(reader, writer)


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files that a killed process left. No other may be writing in this folder."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raises UserError unless the disk of `folder` has room for `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{what} needs {needed / 2**20:.0f} MiB but the disk of {folder} has {free / 2**20:.0f} MiB left; make room there"
        )
