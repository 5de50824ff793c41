"""The names that network pickles may hold, each with the constructor that is called in its place; all others are refused."""

import re
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import torch

from gan_refine.pickles.archives import read_archive
from gan_refine.pickles.machine import Global, GlobalTable, LocatedText, Machine, fill, members
from gan_refine.pickles.operations import complete_dtype, set_array
from gan_refine.pickles.records import (
    TENSORFLOW_NETWORK,
    ArrayRecord,
    Blob,
    DamagedError,
    DtypeRecord,
    PersistentObject,
    PlainObject,
    StorageRecord,
    TensorRecord,
    printable,
)

PERSISTENCE_VERSION = 6
MAX_DIMENSIONS = 16
_NUMERIC = re.compile(r"[<|=]?(b1|[iu][1248]|f[248]|c8|c16)")


def _persistent(machine: Machine, args: tuple) -> PersistentObject:
    (meta,) = args
    if not isinstance(meta, dict) or meta.get("type") != "class" or meta.get("version") != PERSISTENCE_VERSION:
        raise DamagedError(f"a persistent object is not of the known version {PERSISTENCE_VERSION}")
    name, source, state = meta.get("class_name"), meta.get("module_src"), meta.get("state")
    state = {} if state is None else state
    if not isinstance(name, str) or not isinstance(source, str) or not isinstance(state, dict):
        raise DamagedError("a persistent object lacks its class_name, module_src or state")
    return PersistentObject(name, source, state, meta)


def _tensor(machine: Machine, args: tuple) -> TensorRecord:
    """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, ...); v1 has four."""
    storage, offset, shape, stride = args[:4]
    if not isinstance(storage, StorageRecord):
        raise DamagedError(f"a tensor is stored in a {type(storage).__name__}")
    if len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        raise DamagedError("a tensor has no proper shape")
    if not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *stride)):
        raise DamagedError("a tensor has no proper shape")
    shape, stride = tuple(shape), tuple(stride)
    numel = 1
    for length in shape:
        numel *= length
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True)) if numel else -1
    if numel > storage.count or last >= storage.count:
        raise DamagedError(f"a tensor of shape {list(shape)} is declared where {storage.count} numbers are present")
    record = TensorRecord(storage, offset, shape, stride, requires_grad=len(args) > 4 and args[4] is True)
    machine.workspace.tensors.append(record)
    return record


def _parameter(machine: Machine, args: tuple) -> TensorRecord:
    """torch._utils._rebuild_parameter(tensor, requires_grad, hooks), or _with_state with a fourth argument."""
    data, requires_grad = args[:2]
    if not isinstance(data, TensorRecord):
        raise DamagedError(f"a parameter is a {type(data).__name__}")
    return replace(data, requires_grad=requires_grad is True, is_parameter=True)


def _storage(machine: Machine, args: tuple) -> StorageRecord:
    """torch.storage._load_from_bytes, elsewhere a nested torch.load."""
    (blob,) = args
    if not isinstance(blob, Blob):
        raise DamagedError("a storage is not made from bytes")
    value = read_archive(blob.view, blob.start, STORAGE_GLOBALS, machine.workspace)
    if not isinstance(value, StorageRecord):
        raise DamagedError("the bytes of a storage hold something other than one storage")
    return value


def _encode(machine: Machine, args: tuple) -> Blob:
    """_codecs.encode(text, 'latin1'), by which protocols 0 to 2 write bytes; each text is decoded once."""
    text, encoding = args
    if not isinstance(text, LocatedText) or encoding != "latin1":
        raise DamagedError("bytes are encoded as text in an unknown way")
    if text.blob is None:
        text.blob = machine.workspace.keep(text.encode("latin1"), text)
    return text.blob


def _no_bytes(machine: Machine, args: tuple) -> Blob:
    """bytes(), by which protocols 0 to 2 write none."""
    if args:
        raise DamagedError("bytes with arguments")
    return Blob(machine.place, memoryview(b""))


def _dict(machine: Machine, args: tuple) -> dict[object, object]:
    """dnnlib.util.EasyDict(): filled by the operations that follow."""
    if args:
        raise DamagedError("an EasyDict with arguments")
    return {}


def _ordered_dict(machine: Machine, args: tuple) -> OrderedDict[object, object]:
    result: OrderedDict[object, object] = OrderedDict()
    if args:
        (pairs,) = args
        machine.budget.spend(len(pairs))
        fill(result, [(key, value) for key, value in pairs])
    return result


def _default_dict(machine: Machine, args: tuple) -> dict[object, object]:
    """collections.defaultdict(factory), filled by the operations that follow; nothing here asks it for what it lacks."""
    if len(args) > 1:
        raise DamagedError("a defaultdict with items")
    return {}


def _set(machine: Machine, args: tuple) -> set[object]:
    (items,) = args or ([],)
    if not isinstance(items, list | tuple):
        raise DamagedError("a set is not made from a list")
    machine.budget.spend(len(items))
    return set(members(list(items)))


def _frozenset(machine: Machine, args: tuple) -> frozenset[object]:
    return frozenset(_set(machine, args))


def _size(machine: Machine, args: tuple) -> tuple[int, ...]:
    (lengths,) = args
    if len(lengths) > MAX_DIMENSIONS or not all(type(n) is int for n in lengths):
        raise DamagedError("a torch.Size is not made from a few integers")
    return tuple(lengths)


def _device(machine: Machine, args: tuple) -> torch.device:
    kind, index = args if len(args) == 2 else (*args, None)
    if not isinstance(kind, str) or not (index is None or (type(index) is int and 0 <= index < 128)):
        raise DamagedError("a device has no proper name")
    return torch.device(kind) if index is None else torch.device(kind, index)


def _copyreg_object(machine: Machine, args: tuple) -> object:
    """copyreg._reconstructor(cls, object, None), which protocols 0 and 1 use where later ones have NEWOBJ.

    For subclasses of dict it is (cls, dict, items).
    """
    cls, base, state = args
    if not isinstance(cls, Global) or cls.call is None or not isinstance(base, Global):
        raise DamagedError("an object is rebuilt in an unknown way")
    made = cls.call(machine, ())
    if base.name == "builtins.dict" and isinstance(made, dict) and isinstance(state, dict):
        machine.budget.spend(len(state))
        made.update(state)
    elif base.name != "builtins.object" or state is not None:
        raise DamagedError("an object is rebuilt in an unknown way")
    return made


def _numpy_array(machine: Machine, args: tuple) -> ArrayRecord:
    if not args or not isinstance(args[0], Global) or args[0].name != "numpy.ndarray":
        raise DamagedError("a numpy array of an unknown kind")
    return ArrayRecord()


def _numpy_buffer(machine: Machine, args: tuple) -> ArrayRecord:
    """numpy.core.numeric._frombuffer(buffer, dtype, shape, order) of pickle protocol 5."""
    data, dtype, shape, order = args
    if not isinstance(data, Blob) or not isinstance(dtype, DtypeRecord):
        raise DamagedError("a numpy array is not of plain numbers")
    result = ArrayRecord()
    set_array(result, dtype, shape, order == "F", data)
    return result


def _numpy_dtype(machine: Machine, args: tuple) -> DtypeRecord:
    code = args[0] if args else None
    if not isinstance(code, str) or not _NUMERIC.fullmatch(code):
        raise DamagedError(f"a numpy type {printable(code)[:20]!r} is not a number")
    record = DtypeRecord(code.lstrip("<|="))
    complete_dtype(record, (3, "|" if record.dtype().itemsize == 1 else "<"))
    return record


def _numpy_scalar(machine: Machine, args: tuple) -> np.generic:
    dtype, data = args
    if not isinstance(dtype, DtypeRecord) or not isinstance(data, Blob) or len(data.view) != dtype.dtype().itemsize:
        raise DamagedError("a numpy scalar is not a plain number")
    return np.frombuffer(data.view, dtype.dtype())[0]


def _plain(name: str) -> Global:
    def construct(machine: Machine, args: tuple) -> PlainObject:
        if args:
            raise DamagedError(f"a {name} with arguments")
        return PlainObject(name)

    return Global(name, call=construct)


def _table(globals_: list[Global]) -> GlobalTable:
    return {(name, attribute): entry for entry in globals_ for name, _, attribute in [entry.name.rpartition(".")]}


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_CONTAINERS = ("ModuleList", "ModuleDict", "Sequential", "ParameterList", "ParameterDict")

GLOBALS: GlobalTable = _table(
    [
        Global("torch_utils.persistence._reconstruct_persistent_obj", call=_persistent),
        Global("collections.OrderedDict", call=_ordered_dict),
        Global("dnnlib.util.EasyDict", call=_dict),
        Global("collections.defaultdict", call=_default_dict),
        Global("builtins.set", call=_set),
        Global("builtins.frozenset", call=_frozenset),
        Global("builtins.bytes", call=_no_bytes),
        Global("builtins.object"),
        Global("builtins.dict"),
        Global("_codecs.encode", call=_encode),
        Global("copyreg._reconstructor", call=_copyreg_object),
        Global("torch._utils._rebuild_tensor", call=_tensor),
        Global("torch._utils._rebuild_tensor_v2", call=_tensor),
        Global("torch._utils._rebuild_parameter", call=_parameter),
        Global("torch._utils._rebuild_parameter_with_state", call=_parameter),
        Global("torch.storage._load_from_bytes", call=_storage),
        Global("torch.Size", call=_size),
        Global("torch.device", call=_device),
        Global("numpy.ndarray"),
        Global("numpy.dtype", call=_numpy_dtype),
        *(Global(f"numpy.{core}.multiarray._reconstruct", call=_numpy_array) for core in ("core", "_core")),
        *(Global(f"numpy.{core}.multiarray.scalar", call=_numpy_scalar) for core in ("core", "_core")),
        *(Global(f"numpy.{core}.numeric._frombuffer", call=_numpy_buffer) for core in ("core", "_core")),
        *(_plain(f"torch.nn.modules.container.{name}") for name in _CONTAINERS),
        _plain(TENSORFLOW_NETWORK),
        *(Global(str(dtype), value=dtype) for dtype in _STORAGES.values()),
    ]
)

STORAGE_GLOBALS: GlobalTable = _table([Global(f"torch.{name}", value=dtype) for name, dtype in _STORAGES.items()])

# A state dict: names, tensors and the versions that torch notes beside them.
_STATE_DICT_NAMES = {"collections.OrderedDict", "torch.Size"}
_STATE_DICT_NAMES |= {
    f"torch._utils.{name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
}
STATE_DICT_GLOBALS: GlobalTable = {
    **STORAGE_GLOBALS,
    **{key: entry for key, entry in GLOBALS.items() if entry.name in _STATE_DICT_NAMES},
}
