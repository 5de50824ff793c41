"""The two layouts of torch.save, read without torch.load: a zip archive, and before torch 1.6 pickles followed by numbers."""

import io
import struct
import zipfile
from dataclasses import dataclass, replace

import torch

from gan_refine.pickles.machine import GlobalTable, Machine, Workspace
from gan_refine.pickles.operations import run_pickle
from gan_refine.pickles.records import DamagedError, StorageRecord

ZIP_START = b"PK"
MAX_ENTRIES = 100_000
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_HEAD = 64  # bytes, in which the first pickle holds the magic number
_LEGACY_PROTOCOL = 1001
_LOCAL_HEADER = struct.Struct("<26x2H")  # ends with the lengths of the name and of the extra field that follow it
_READ = ("data.pkl", "byteorder")  # and data/KEY; TorchScript keeps its program beside them, compressed
_ENCRYPTED = 1  # bit of a zip entry's flags
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, OSError, EOFError)


@dataclass(frozen=True)
class StorageDeclaration:
    """Type, key and length that a pickle states for a storage outside of it."""

    dtype: torch.dtype
    key: str
    count: int


def read_archive(data: memoryview, base: int, table: GlobalTable, workspace: Workspace) -> object:
    """What torch.save wrote to `data`, which starts at byte `base` of the file. Raises DamagedError.

    Only names in `table` are allowed; storages must be present in full, little-endian and uncompressed.
    """
    if bytes(data[: len(ZIP_START)]) == ZIP_START:
        return _Zip(data, base, table, workspace).read()
    return _Legacy(data, base, table, workspace).read()


def written_by_torch(data: bytes | memoryview) -> bool:
    """Whether the bytes start as files of torch.save do, in either layout; a zip file may be any other."""
    head = bytes(data[:_LEGACY_HEAD])
    return head.startswith(ZIP_START) or _LEGACY_MAGIC.to_bytes(10, "little") in head


def parse_declaration(identity: object) -> StorageDeclaration:
    """('storage', type, key, location, count[, None]), the persistent id of a storage."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise DamagedError("a storage is declared in an unknown form")
    kind, key, count = identity[1], identity[2], identity[4]
    if not isinstance(kind, torch.dtype) or not isinstance(key, str):
        raise DamagedError("a storage has an unknown type")
    if type(count) is not int or not 0 <= count < 2**48 or identity[5:] not in ((), (None,)):
        raise DamagedError("a storage has an invalid size")
    return StorageDeclaration(kind, key, count)


class _Zip:
    """Entries PREFIX/data.pkl with the structure and PREFIX/data/KEY with the numbers of each storage."""

    def __init__(self, data: memoryview, base: int, table: GlobalTable, workspace: Workspace) -> None:
        self.data, self.base, self.table, self.workspace = data, base, table, workspace
        self.entries = self._entries()

    def read(self) -> object:
        order = self.entries.get("byteorder")
        if order is not None and bytes(self.data[slice(*order)]) != b"little":
            raise DamagedError("its storages were written by a big-endian machine")
        if "data.pkl" not in self.entries:
            raise DamagedError("it is a zip file that torch.save did not write")
        first, last = self.entries["data.pkl"]
        view, place = self.data[first:last], self.base + first
        return run_pickle(Machine(view, self.table, self.workspace, place, persistent_load=self._storage))

    def _storage(self, identity: object) -> StorageRecord:
        stated = parse_declaration(identity)
        first, last = self.entries.get(f"data/{stated.key}", (0, -1))
        if stated.count * stated.dtype.itemsize != last - first:
            raise DamagedError(
                f"a storage of {stated.count} numbers is declared where {max(last - first, 0)} bytes are present"
            )
        return StorageRecord(stated.dtype, self.base + first, stated.count)

    def _entries(self) -> dict[str, tuple[int, int]]:
        """First and last byte of each entry by its name without prefix."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as archive:
                held = archive.infolist()
        except _ZIP_ERRORS as error:
            raise DamagedError(f"its zip directory is damaged ({error})") from error
        if len(held) > MAX_ENTRIES:
            raise DamagedError(f"it is a zip file of {len(held)} entries")
        named = [(info.filename.partition("/")[2], info) for info in held]
        return {name: self._place(info) for name, info in named if name in _READ or name.startswith("data/")}

    def _place(self, info: zipfile.ZipInfo) -> tuple[int, int]:
        stored = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
        if not stored or info.flag_bits & _ENCRYPTED:
            raise DamagedError("an entry of its zip file is compressed or encrypted; torch.save stores plain bytes")
        name, extra = _LOCAL_HEADER.unpack_from(self.data, info.header_offset)
        first = info.header_offset + _LOCAL_HEADER.size + name + extra
        if first + info.file_size > len(self.data):
            raise DamagedError("an entry of its zip file ends behind the file")
        return first, first + info.file_size


class _Legacy:
    """Five pickles (magic number, version, the writer's system, structure, keys), then count and numbers of each key."""

    def __init__(self, data: memoryview, base: int, table: GlobalTable, workspace: Workspace) -> None:
        self.data, self.base, self.table, self.workspace = data, base, table, workspace
        self.position = 0
        self.storages: dict[str, StorageRecord] = {}

    def read(self) -> object:
        if self._next() != _LEGACY_MAGIC or self._next() != _LEGACY_PROTOCOL:
            raise DamagedError("it is not in a format of torch.save")
        system = self._next()
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise DamagedError("its storages were written by a big-endian machine")
        structure, tensors = self.position, len(self.workspace.tensors)
        value, keys = self._next(), self._next()
        self._locate(keys)
        if isinstance(value, StorageRecord):
            return next(iter(self.storages.values()))
        del self.workspace.tensors[tensors:]
        self.position = structure
        return self._next()  # again, now that the places of the storages are known

    def _next(self) -> object:
        machine = Machine(
            self.data[self.position :], self.table, self.workspace, self.base + self.position, self._storage
        )
        value = run_pickle(machine)
        self.position += machine.position
        return value

    def _storage(self, identity: object) -> object:
        if isinstance(identity, tuple) and len(identity) == 4 and identity[0] == "module":
            return identity[1]  # a class, with the text of its module
        stated = parse_declaration(identity)
        record = self.storages.setdefault(stated.key, StorageRecord(stated.dtype, 0, stated.count))
        if (record.dtype, record.count) != (stated.dtype, stated.count):
            raise DamagedError("a storage is declared with two types or sizes")
        return record

    def _locate(self, keys: object) -> None:
        """Finds the numbers of every declared storage after the pickles."""
        named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not isinstance(keys, list) or not named or sorted(keys) != sorted(self.storages):
            raise DamagedError("it declares other storages than it holds")
        for key in keys:
            record = self.storages[key]
            first = self.position + 8
            self.position = first + record.count * record.dtype.itemsize
            if self.position > len(self.data) or struct.unpack_from("<q", self.data, first - 8)[0] != record.count:
                present = max(len(self.data) - first, 0)
                raise DamagedError(f"a storage of {record.count} numbers is declared where {present} bytes are present")
            self.storages[key] = replace(record, start=self.base + first)
        if self.position != len(self.data):
            raise DamagedError("it has bytes after its last storage")
