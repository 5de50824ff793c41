"""What a pickle is read into: inert records. Tensors stay in the file until their values are asked for."""

import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch

MAX_DEPTH = 64  # of modules inside modules, and of containers inside constructor arguments
MAX_MODULES = 20_000  # and of tensors in them: what is held under many names counts each time
MAX_NAME = 1024  # characters of a dotted name
TENSORFLOW_NETWORK = "dnnlib.tflib.network.Network"
_RAW = {1: "i1", 2: "i2", 4: "i4", 8: "i8", 16: "c16"}  # numpy's types of these sizes
TENSORFLOW_KEYS = ("G", "D", "G_ema")


class DamagedError(Exception):
    """Something that no network pickle holds. The reader adds the path and turns it into a FileFormatError."""


# What hostile bytes can raise inside the constructors of this package: each means that the file is damaged.
DAMAGE_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    AssertionError,
    struct.error,
)


def printable(value: object) -> str:
    """At most 200 characters of it, in one line and without control characters: files choose the names in messages.

    Of anything but strings, numbers and errors only the type is named, because printing a file's object can take forever.
    """
    shown = isinstance(value, str | int | float | BaseException) or value is None
    text = str(value)[:200].replace("\n", " ") if shown else f"a {type(value).__name__}"
    return "".join(char if char.isprintable() else "?" for char in text)


def error_text(error: BaseException) -> str:
    """The message in one printable line; after its type's name, unless it is a DamagedError."""
    text = printable(error)
    return text if isinstance(error, DamagedError) else f"{type(error).__name__}: {text}"


@dataclass(frozen=True, eq=False)
class Blob:
    """A byte string of the file: `view` is `data[start : start + len(view)]` of its PickleFile, uncopied."""

    start: int
    view: memoryview = field(repr=False)


@dataclass(frozen=True, eq=False)
class EncodedBytes:
    """Bytes that the file holds as text (pickle protocols 0 to 2); PickleFile.data has them decoded, from byte `start`.

    In the file itself, the operation with its text is at `first : last`.
    """

    start: int
    length: int
    first: int
    last: int
    opcode: str

    def operation(self, data: bytes | bytearray | memoryview) -> bytes:
        """The pickle operation for `data`, as Python's pickler writes it."""
        text = bytes(data).decode("latin1")
        if self.opcode == "X":
            encoded = text.encode("utf-8")
            return b"X" + struct.pack("<I", len(encoded)) + encoded
        for char in "\\\0\n\r\x1a":  # the backslash first: it begins the others' escapes
            text = text.replace(char, f"\\u{ord(char):04x}")
        return b"V" + text.encode("raw-unicode-escape") + b"\n"


@dataclass(frozen=True, eq=False)
class StorageRecord:
    """`count` numbers of one type at byte `start` of the file."""

    dtype: torch.dtype
    start: int
    count: int


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A strided view of a storage; its bounds have been checked."""

    storage: StorageRecord
    offset: int  # in elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    requires_grad: bool = False
    is_parameter: bool = False

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def numel(self) -> int:
        return math.prod(self.shape)

    def overlaps_itself(self) -> bool:
        """Whether two elements may share memory, as in an expanded tensor."""
        reach = 0  # of the faster dimensions, in elements
        for step, length in sorted(
            (step, length) for step, length in zip(self.stride, self.shape, strict=True) if length > 1
        ):
            if step <= reach:
                return True
            reach += (length - 1) * step
        return False

    def view(self, buffer: bytes | bytearray) -> torch.Tensor:
        """The tensor inside `buffer`, which holds the whole file; shares its memory."""
        if self.storage.count == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(buffer, dtype=self.dtype, offset=self.storage.start, count=self.storage.count)
        return flat.as_strided(self.shape, self.stride, self.offset)


@dataclass(eq=False)
class DtypeRecord:
    """A numeric numpy type, completed by its BUILD operation."""

    code: str
    byte_order: Literal["<", "|", "="] = "="

    def dtype(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder(self.byte_order)


@dataclass(eq=False)
class ArrayRecord:
    """A numeric numpy array, completed by its BUILD operation."""

    dtype: np.dtype = field(default_factory=lambda: np.dtype("f4"))
    shape: tuple[int, ...] = (0,)
    fortran: bool = False
    data: memoryview = field(default=memoryview(b""), repr=False)

    def array(self) -> np.ndarray:
        """A read-only array over the bytes of the file."""
        return np.frombuffer(self.data, self.dtype).reshape(self.shape, order="F" if self.fortran else "C")


@dataclass(eq=False)
class PlainObject:
    """An object of a class that the reader knows by name only, such as torch.nn.modules.container.ModuleDict."""

    class_name: str
    state: dict[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class PersistentObject:
    """An object that carries its own source. The source is text here and stays text."""

    class_name: str
    module_src: str = field(repr=False)
    state: dict[str, object] = field(repr=False)
    meta: dict[str, object] = field(repr=False)


@dataclass(frozen=True, eq=False)
class PickleFile:
    """The inert object graph of one file, with the bytes of its tensors and arrays.

    `data` is the file, followed by what `encoded` lists. `called` are unknown names that opening the file elsewhere would call.
    """

    path: Path
    root: object = field(repr=False)
    data: bytes = field(repr=False)
    tensors: tuple[TensorRecord, ...] = field(repr=False)
    encoded: tuple[EncodedBytes, ...] = field(default=(), repr=False)
    called: tuple[str, ...] = ()
    by_torch: bool = False  # written by torch.save

    @property
    def keeps_its_bytes(self) -> bool:
        """Whether refined weights are written into its own bytes: into a PyTorch pickle that calls nothing unknown."""
        return not (self.by_torch or self.called or self.tensorflow())

    def file_bytes(self, data: bytes | bytearray) -> bytes | bytearray:
        """What the file would hold if its `data` were this."""
        if not self.encoded:
            return data
        view, end = memoryview(data), 0
        pieces: list[bytes | memoryview] = []
        for item in sorted(self.encoded, key=lambda item: item.first):
            pieces += [view[end : item.first], item.operation(view[item.start : item.start + item.length])]
            end = item.last
        return b"".join([*pieces, view[end : self.encoded[0].start]])

    def tensor(self, record: TensorRecord) -> torch.Tensor:
        """A copy of the values, on the CPU, in the file's dtype, without gradient."""
        if record.numel() == 0:
            return torch.empty(record.shape, dtype=record.dtype)
        size = record.dtype.itemsize
        # numpy copies the view's elements only; copying the whole storage could take far longer
        start, strides = record.storage.start + record.offset * size, tuple(size * step for step in record.stride)
        raw = np.ndarray(record.shape, _RAW[size], self.data, start, strides).copy()
        return torch.from_numpy(raw).view(record.dtype)

    def tensorflow(self) -> dict[str, PlainObject]:
        """The networks of a legacy TensorFlow pickle, which is the tuple (G, D, G_ema); empty for other files."""
        if not isinstance(self.root, tuple) or len(self.root) != len(TENSORFLOW_KEYS):
            return {}
        held = [net for net in self.root if isinstance(net, PlainObject) and net.class_name == TENSORFLOW_NETWORK]
        return dict(zip(TENSORFLOW_KEYS, held, strict=True)) if len(held) == len(TENSORFLOW_KEYS) else {}

    def networks(self) -> dict[str, PersistentObject]:
        """The persistent objects by their key, such as 'G_ema' or 'ema'; empty where the file holds something else."""
        if not isinstance(self.root, dict):
            return {}
        return {str(key): value for key, value in self.root.items() if isinstance(value, PersistentObject)}


def named_tensors(module: PersistentObject | PlainObject) -> dict[str, TensorRecord]:
    """Every parameter and buffer by its dotted name, as `Module.state_dict` would name it. Raises DamagedError."""
    found: dict[str, TensorRecord] = {}
    pending: list[tuple[str, int, object]] = [("", 0, module)]
    visited = 0
    while pending:
        prefix, depth, current = pending.pop()
        visited += 1
        if len(prefix) > MAX_NAME:
            raise DamagedError(f"a module's name is longer than {MAX_NAME} characters")
        if depth > MAX_DEPTH or visited + len(pending) > MAX_MODULES or len(found) > MAX_MODULES:
            raise DamagedError(f"modules are nested deeper than {MAX_DEPTH} or are more than {MAX_MODULES}")
        for name, value in _entries(current, "_parameters") + _entries(current, "_buffers"):
            if isinstance(value, TensorRecord):
                found[prefix + name] = value
            elif value is not None:
                raise DamagedError(f"{prefix}{name} is a {type(value).__name__}, not a tensor")
        for name, child in _entries(current, "_modules"):
            if child is not None:
                pending.append((f"{prefix}{name}.", depth + 1, child))
    return found


def _entries(module: object, table: str) -> list[tuple[str, object]]:
    if not isinstance(module, PersistentObject | PlainObject):
        raise DamagedError(f"a {type(module).__name__} is found where a module is expected")
    entries = module.state.get(table, {})
    if not isinstance(entries, dict) or len(entries) > MAX_MODULES:
        raise DamagedError(
            f"{table} of a {printable(module.class_name)} is not a dict, or has more than {MAX_MODULES} entries"
        )
    if not all(isinstance(name, str) and len(name) <= MAX_NAME // 4 for name in entries):
        raise DamagedError(f"{table} of a {module.class_name} has keys that are not names")
    return list(entries.items())


def child_module(module: PersistentObject | PlainObject, *names: str) -> PersistentObject | PlainObject | None:
    """The submodule at the end of a path of names; None where there is none."""
    current: object = module
    for name in names:
        current = dict(_entries(current, "_modules")).get(name)
        if current is None:
            return None
    return current if isinstance(current, PersistentObject | PlainObject) else None
