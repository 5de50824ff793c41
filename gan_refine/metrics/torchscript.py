"""Tensors out of a TorchScript archive, without loading the program in it, by the machine that reads network pickles."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from gan_refine.errors import FileFormatError
from gan_refine.pickles import CONSEQUENCES, PickleFile, PlainObject, TensorRecord, printable
from gan_refine.pickles.allowlist import GLOBALS, STATE_DICT_GLOBALS
from gan_refine.pickles.archives import read_archive
from gan_refine.pickles.machine import Global, GlobalTable, Machine, Workspace
from gan_refine.pickles.reader import read_bytes
from gan_refine.pickles.records import MAX_DEPTH, MAX_NAME, DamagedError

SHARED = 4  # how often the file's bytes may be read: tensors of several names can share a storage
_WANTED = "wanted is what torch.jit.save writes"
_LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor by its dotted name. Raises FileFormatError for what is no TorchScript archive; runs nothing of it.

    Time and memory stay proportional to the file.
    """
    data = read_bytes(path, _WANTED)
    try:
        root = read_archive(memoryview(data), 0, _Names(), Workspace(len(data)))
        file, found, total = PickleFile(path, root, data, ()), dict[str, Tensor](), 0
        for name, record in _walk(root):
            total += record.numel() * record.dtype.itemsize
            if total > SHARED * len(data):
                raise DamagedError(f"its tensors take more than {SHARED} times the file")
            found[name] = file.tensor(record)
    except (DamagedError, *CONSEQUENCES) as error:
        raise FileFormatError(
            f"{path} is not a readable TorchScript archive ({printable(error)}); {_WANTED}"
        ) from error
    return found


def is_archive(path: Path) -> bool:
    """Whether the file is a zip with a program in it, as torch.jit.save writes and torch.save does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):  # damaged names and unknown versions among them
        return False


def _walk(module: object) -> Iterator[tuple[str, TensorRecord]]:
    """The tensors that are attributes of modules; a module that is held twice is walked once."""
    pending, seen = [("", 0, module)], set()
    while pending:
        prefix, depth, current = pending.pop()
        if isinstance(current, TensorRecord):
            yield prefix.removesuffix("."), current
        elif isinstance(current, PlainObject) and id(current) not in seen:
            if depth > MAX_DEPTH:
                raise DamagedError(f"modules are nested deeper than {MAX_DEPTH}")
            if len(prefix) > MAX_NAME or not all(isinstance(name, str) for name in current.state):
                raise DamagedError("a module has attributes of no proper name")
            seen.add(id(current))
            pending += [(f"{prefix}{name}.", depth + 1, value) for name, value in current.state.items()]


class _Names(Mapping[tuple[str, str], Global]):
    """The allowed names: those of state dicts, lists with their element type, and every class of the archive's own."""

    def __getitem__(self, key: tuple[str, str]) -> Global:
        module, name = key
        return _CLASS if module.partition(".")[0] == "__torch__" else _TABLE[module, name]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(_TABLE)

    def __len__(self) -> int:
        return len(_TABLE)


def _module(machine: Machine, args: tuple) -> PlainObject:
    if args:
        raise DamagedError("a module with arguments")
    return PlainObject("a module")


def _untagged(machine: Machine, args: tuple) -> object:
    return args[0]


_CLASS = Global("__torch__", call=_module)
_TABLE: GlobalTable = {
    **STATE_DICT_GLOBALS,
    ("torch", "device"): GLOBALS["torch", "device"],
    **{("torch.jit._pickle", name): Global(name, call=_untagged) for name in _LISTS},
}
