"""Opening a network pickle without running anything in it."""

from pathlib import Path

from gan_refine.errors import FileFormatError
from gan_refine.pickles.allowlist import GLOBALS
from gan_refine.pickles.machine import Budget, Machine
from gan_refine.pickles.records import CONSEQUENCES, DamagedError, PickleFile, printable

MAX_FILE_BYTES = 8 << 30  # the published files are below 0.4 GB (StyleGAN2) and 1.2 GB (ADM)
_WANTED = "wanted is a StyleGAN2-ADA (.pkl with 'G_ema') or EDM (.pkl with 'ema') network pickle"


def read_pickle(path: Path) -> PickleFile:
    """The object graph of a network pickle as inert records; nothing named or embedded in the file is imported or run.

    Raises FileFormatError, in one line, for files that are missing, damaged, of another format or name anything that
    network pickles do not need. Time and memory stay proportional to the file; tensors are read when asked for.
    """
    path = Path(path)
    data = _read(path)
    machine = Machine(memoryview(data), GLOBALS, Budget())
    try:
        root = machine.run()
    except DamagedError as error:
        raise FileFormatError(f"{path} cannot be opened safely: {printable(error)}; {_WANTED}") from error
    except CONSEQUENCES as error:
        where = f"near byte {machine.position} ({type(error).__name__}: {printable(error)})"
        raise FileFormatError(f"{path} is damaged {where}; {_WANTED}") from error
    if not isinstance(root, dict) or not all(isinstance(key, str) for key in root):
        raise FileFormatError(f"{path} is a pickle of a {type(root).__name__}, not of networks by name; {_WANTED}")
    return PickleFile(path, root, data, tuple(machine.tensors))


def _read(path: Path) -> bytes:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist" if not path.exists() else "is not a regular file"
        raise FileFormatError(f"{path} {found}; {_WANTED}")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise FileFormatError(f"{path} has {size} bytes, more than the {MAX_FILE_BYTES} allowed; {_WANTED}")
        data = path.read_bytes()
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if data[:2] == b"PK":
        raise FileFormatError(f"{path} is a zip file, perhaps a state dict written by torch.save; {_WANTED}")
    if data[:1] != b"\x80":
        kind = "is empty" if not data else "is no binary pickle (does it hold text, or an error page?)"
        raise FileFormatError(f"{path} {kind}; {_WANTED}")
    return data
