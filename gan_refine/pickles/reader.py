"""Opening a network pickle without running anything in it."""

from pathlib import Path

from gan_refine.errors import FileFormatError
from gan_refine.pickles.allowlist import GLOBALS
from gan_refine.pickles.archives import ZIP_START
from gan_refine.pickles.machine import Machine, Workspace
from gan_refine.pickles.operations import run_pickle
from gan_refine.pickles.records import DAMAGE_ERRORS, DamagedError, PickleFile, error_text, printable

MAX_FILE_BYTES = 8 << 30  # the published files are below 0.4 GB (StyleGAN2) and 1.2 GB (ADM)
_STARTS = (b"\x80", b"(", b"}")  # PROTO; before protocol 2 the start of a dict or of a tuple
_WANTED = "expected a StyleGAN2-ADA (.pkl with 'G_ema') or EDM (.pkl with 'ema') network pickle"


def read_pickle(path: Path) -> PickleFile:
    """The object graph of a network pickle as inert records; nothing named or embedded in the file is imported or run.

    Raises FileFormatError, in one line, for files that are missing, damaged, of another format or name anything that
    network pickles do not need. Time and memory stay proportional to the file; tensors are read when asked for.
    """
    path = Path(path)
    data = read_bytes(path, _WANTED)
    _check_start(path, data)
    workspace = Workspace(len(data))
    machine = Machine(memoryview(data), GLOBALS, workspace)
    try:
        root = run_pickle(machine)
    except DamagedError as error:
        raise FileFormatError(f"{path} cannot be opened safely: {printable(error)}; {_WANTED}") from error
    except DAMAGE_ERRORS as error:
        raise FileFormatError(
            f"{path} is damaged near byte {machine.position} ({error_text(error)}); {_WANTED}"
        ) from error
    whole = b"".join([data, *workspace.decoded]) if workspace.decoded else data
    file = PickleFile(path, root, whole, tuple(workspace.tensors), tuple(workspace.encoded))
    named = isinstance(root, dict) and all(isinstance(key, str) for key in root)
    if not named and not file.tensorflow():
        raise FileFormatError(f"{path} is a pickle of a {type(root).__name__}, not of networks by name; {_WANTED}")
    return file


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
    if data[:2] == ZIP_START:
        raise FileFormatError(
            f"{path} is a zip file, perhaps a state dict written by torch.save: name it .pt and put a .json beside it; {_WANTED}"
        )
    if data[:1] not in _STARTS:
        kind = "is empty" if not data else "is not a pickle (does it hold text, or an error page?)"
        raise FileFormatError(f"{path} {kind}; {_WANTED}")
