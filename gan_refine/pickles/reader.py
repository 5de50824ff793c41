"""Opening a network pickle without running anything in it."""

from pathlib import Path

from gan_refine.errors import FileFormatError
from gan_refine.networks.edm_precond import PRECONDITIONINGS
from gan_refine.pickles.archives import read_archive, written_by_torch
from gan_refine.pickles.contents import TRUST, words
from gan_refine.pickles.foreign import Names
from gan_refine.pickles.machine import Machine, Workspace
from gan_refine.pickles.operations import run_pickle
from gan_refine.pickles.records import (
    DAMAGE_ERRORS,
    DamagedError,
    PersistentObject,
    PickleFile,
    PlainObject,
    error_text,
    printable,
)

MAX_FILE_BYTES = 8 << 30  # the published files are below 0.4 GB (StyleGAN2) and 1.2 GB (ADM)
_STARTS = (b"\x80", b"(", b"}")  # PROTO; before protocol 2 the start of a dict or of a tuple
_WANTED = "expected a StyleGAN2-ADA (.pkl with 'G_ema') or EDM (.pkl with 'ema') network pickle"


def read_pickle(path: Path) -> PickleFile:
    """The object graph of a network pickle, or of a file of torch.save, as inert records; nothing in it is imported or run.

    Names that are unknown here become placeholders. Raises FileFormatError, in one line, for files that are missing, damaged or
    of another format. Time and memory stay proportional to the file; tensors are read when asked for.
    """
    path = Path(path)
    data = read_bytes(path, _WANTED)
    by_torch = written_by_torch(data)
    if not by_torch:
        _check_start(path, data)
    workspace = Workspace(len(data), is_archive=by_torch)
    names = Names(workspace.budget)
    workspace.operations = names.operations
    try:
        if by_torch:
            root = read_archive(memoryview(data), 0, names.table, workspace)
        else:
            root = run_pickle(Machine(memoryview(data), names.table, workspace))
    except DamagedError as error:
        raise FileFormatError(f"{path} cannot be opened safely: {printable(error)}; {_WANTED}") from error
    except DAMAGE_ERRORS as error:
        raise FileFormatError(f"{path} is damaged ({error_text(error)}); {_WANTED}") from error
    whole = b"".join([data, *workspace.decoded]) if workspace.decoded else data
    root = {_key(root): root} if isinstance(root, PersistentObject) else root
    tensors, encoded = tuple(workspace.tensors), tuple(workspace.encoded)
    file = PickleFile(path, root, whole, tensors, encoded, tuple(names.called), by_torch)
    named = isinstance(root, dict) and all(isinstance(key, str) for key in root)
    if not named and not file.tensorflow():
        raise FileFormatError(f"{path} holds {_kind(root)}, not networks by name; {_WANTED}")
    return file


def _key(alone: PersistentObject) -> str:
    """The key under which a file with a single network would hold it."""
    return "ema" if alone.class_name in PRECONDITIONINGS else "G_ema"


def _kind(root: object) -> str:
    if isinstance(root, PlainObject):
        return f"{words(root)}, a module saved whole, whose class is not known here ({TRUST})"
    return words(root)


def read_bytes(path: Path, wanted: str) -> bytes:
    """The bytes of a regular file of reasonable size. Raises FileFormatError, which ends with what is wanted."""
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist" if not path.exists() else "is not a regular file"
        raise FileFormatError(f"{path} {found}; {wanted}")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FileFormatError(f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} allowed; {wanted}")
        return path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read ({error.strerror}); check its permissions") from error


def _check_start(path: Path, data: bytes) -> None:
    """Raises FileFormatError for usual mistakes, which the interpreter would describe in less helpful words."""
    if data[:1] not in _STARTS:
        kind = "is empty" if not data else "is not a pickle (does it hold text, or an error page?)"
        raise FileFormatError(f"{path} {kind}; {_WANTED}")
