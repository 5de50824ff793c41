"""Tensors out of a TorchScript archive, without loading the program in it."""

import io
import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gan_refine.errors import FileFormatError, first_line

LARGEST_FILE = 2**31  # bytes, once unpacked; no detector is near it

STORAGES = {"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16}
STORAGES |= {
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class ScriptObject:
    """A module of the archive: its attributes and nothing that runs."""

    def __init__(self) -> None:
        self.attributes: dict[str, object] = {}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module's state is no dictionary")
        self.attributes = {str(key): value for key, value in state.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor by its dotted name. Raises FileFormatError for what is no TorchScript archive; runs nothing of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_FILE:
                raise FileFormatError(f"{path} unpacks to more than {LARGEST_FILE} bytes")
            (main,) = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
            folder = main.removesuffix("data.pkl")
            reader = _Reader(archive.read(main), lambda key: archive.read(f"{folder}data/{key}"))
            return dict(_walk(reader.load(), "", set()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise FileFormatError(f"{path} is not a readable TorchScript archive ({first_line(error)})") from error
    except (EOFError, RecursionError, MemoryError, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise FileFormatError(f"{path} is not a readable TorchScript archive ({first_line(error)})") from error


def is_archive(path: Path) -> bool:
    """Whether the file is a zip with a program in it, as torch.jit.save writes and torch.save does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):  # damaged names and unknown versions among them
        return False


def _walk(item: object, prefix: str, seen: set[int]) -> list[tuple[str, Tensor]]:
    if isinstance(item, Tensor):
        return [(prefix, item)]
    if not isinstance(item, ScriptObject) or id(item) in seen:  # a module inside itself would have no end
        return []
    seen.add(id(item))
    pairs = item.attributes.items()
    return [found for name, value in pairs for found in _walk(value, f"{prefix}.{name}" if prefix else name, seen)]


class _Reader(pickle.Unpickler):
    """An unpickler whose every global is one of the inert things below."""

    def __init__(self, data: bytes, storage: Callable[[str], bytes]) -> None:
        super().__init__(io.BytesIO(data))
        self.storage = storage
        self.bytes_left = LARGEST_FILE  # many tensors can share one storage, and each becomes a copy

    def find_class(self, module: str, name: str) -> object:
        if module.startswith("__torch__"):
            return ScriptObject
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch.jit._pickle":  # build_intlist and its kin: lists with their element type
            return _untagged
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: object) -> Tensor:
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise pickle.UnpicklingError("it holds a storage of an unknown kind")
        data = self.storage(str(pid[2]))
        return torch.frombuffer(bytearray(data), dtype=pid[1]) if data else torch.empty(0, dtype=pid[1])

    def _tensor(
        self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object
    ) -> Tensor:
        if not isinstance(storage, Tensor) or math.prod(size) > len(storage):
            raise pickle.UnpicklingError("a tensor is larger than its storage")
        self.bytes_left -= math.prod(size) * storage.element_size()
        if self.bytes_left < 0:
            raise pickle.UnpicklingError(f"its tensors take more than {LARGEST_FILE} bytes")
        return storage.as_strided(tuple(size), tuple(stride), int(offset)).clone()


def _untagged(value: object, *tag: object) -> object:
    return value
