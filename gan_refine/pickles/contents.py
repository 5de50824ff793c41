"""What a file holds, in words: for messages and for `inspect`."""

from gan_refine.pickles.foreign import ForeignObject
from gan_refine.pickles.machine import Global
from gan_refine.pickles.records import ArrayRecord, PersistentObject, PickleFile, PlainObject, TensorRecord, printable

MAX_ENTRIES = 8
OF_TRAINING = ("optim", "step", "nimg", "epoch", "sched", "scaler")  # in the keys of training states
TRUST = "if you trust its author like a program's, --trust-pickle runs it"


def words(value: object) -> str:
    """One entry in a few words."""
    if value is None or isinstance(value, bool | int | float):
        return printable(value)
    if isinstance(value, str):
        return repr(printable(value))
    if isinstance(value, dict):
        if is_state(value):
            return f"a state dict of {len(value)} tensors"
        shown = [
            f"{printable(key)}={words(item)}"
            for key, item in list(value.items())[:MAX_ENTRIES]
            if not isinstance(item, dict)
        ]
        return f"a dict of {len(value)}: {', '.join(shown)}" if shown else f"a dict of {len(value)}"
    if isinstance(value, PersistentObject | PlainObject):
        unknown = ", of an unknown name" if isinstance(value, ForeignObject) else ""
        return f"a {printable(value.class_name)}{unknown}"
    if isinstance(value, ArrayRecord | TensorRecord):
        return f"numbers of shape {list(value.shape)}"
    if isinstance(value, Global):
        return f"the name {value.name}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple | set) else "")


def is_state(value: object) -> bool:
    """Whether it is tensors by name."""
    return isinstance(value, dict) and bool(value) and all(isinstance(item, TensorRecord) for item in value.values())


def entries(root: object) -> str:
    """The entries of a file by key."""
    if not isinstance(root, dict):
        return words(root)
    named = [f"{printable(key)} ({words(value)[:80]})" for key, value in list(root.items())[:MAX_ENTRIES]]
    return ", ".join(named) + (" ..." if len(root) > MAX_ENTRIES else "") or "nothing"


def why_no_network(file: PickleFile, key: str, wanted: str) -> str:
    """Why `file` has no network of a known kind under `key`, and what to do; `wanted` says what would have one."""
    root = file.root if isinstance(file.root, dict) else {}
    found = root.get(key)
    if is_state(root):
        return (
            f"{file.path} is a state dict of {len(root)} tensors that does not say of which network; put a .json beside it: "
            '{"class": "stylegan2", "init_kwargs": {...}}'
        )
    if isinstance(found, PlainObject):
        return f"{file.path}: its {key} is {words(found)}, a class that is not known here; {TRUST}"
    if any(isinstance(name, str) and any(part in name.lower() for part in OF_TRAINING) for name in root):
        kind, advice = "is a training state without a", "give the network-snapshot-*.pkl of the same run"
    elif root and all(is_state(value) for value in root.values()):
        kind = "holds state dicts and no"
        advice = "save one of them alone, as .safetensors, with a .json beside it that names the network"
    else:
        kind, advice = "has no", wanted
    return f"{file.path} {kind} network {key!r}: it holds {entries(root)}; {advice}"
