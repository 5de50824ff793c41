"""State dicts: weights as safetensors or a weights-only .pt, and beside it a JSON of the same stem that names the network.

{"class": "stylegan2", "init_kwargs": {"z_dim": 512, ...}}; for teachers the class is EDM's, such as "EDMPrecond".
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from gan_refine.errors import FileFormatError
from gan_refine.pickles.allowlist import STATE_DICT_GLOBALS
from gan_refine.pickles.archives import read_archive
from gan_refine.pickles.machine import Workspace
from gan_refine.pickles.reader import read_bytes
from gan_refine.pickles.records import DAMAGE_ERRORS, DamagedError, PickleFile, TensorRecord, error_text, printable

MAX_JSON_BYTES = 1 << 20
MAX_TENSORS = 100_000
_WANTED = "expected a network's state dict, as .safetensors or as .pt by torch.save, with a .json beside it"
_JSON_WANTED = 'expected {"class": ..., "init_kwargs": {...}}'


@dataclass(frozen=True, eq=False)
class StateDict:
    """Weights by name with the description of their network."""

    path: Path
    class_name: str
    init_kwargs: Mapping[str, object] = field(repr=False)
    tensors: Mapping[str, torch.Tensor] = field(repr=False)

    @property
    def json_path(self) -> Path:
        return description_path(self.path)


def description_path(path: Path) -> Path:
    """The JSON file beside a state dict."""
    return path.with_suffix(".json")


def is_state_dict(path: Path) -> bool:
    """True where the file is data alone: safetensors, or a torch file with its description beside it."""
    return path.suffix.lower() in READERS and (path.suffix.lower() == ".safetensors" or description_path(path).exists())


def read_state_dict(path: Path) -> StateDict:
    """The state dict in `path` with its description. Nothing in either file is run.

    Raises FileFormatError, in one line, for what is missing, damaged or holds something else.
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise FileFormatError(f"{path} does not end in {', '.join(READERS)}; {_WANTED}")
    data = read_bytes(path, _WANTED)
    class_name, init_kwargs = read_description(description_path(path))
    try:
        tensors = read(path, data)
    except DamagedError as error:
        raise FileFormatError(f"{path} cannot be opened safely: {printable(error)}; {_WANTED}") from error
    except DAMAGE_ERRORS as error:
        raise FileFormatError(f"{path} is damaged ({error_text(error)}); {_WANTED}") from error
    return StateDict(path, class_name, init_kwargs, tensors)


def read_description(path: Path) -> tuple[str, dict[str, object]]:
    """Class and constructor arguments from a JSON file. Raises FileFormatError."""
    if not path.exists():
        raise FileFormatError(f"{path} is missing: it must say which network the weights are of; {_JSON_WANTED}")
    data = read_bytes(path, _JSON_WANTED)
    if len(data) > MAX_JSON_BYTES:
        raise FileFormatError(f"{path} has {len(data)} bytes, more than the {MAX_JSON_BYTES} allowed; {_JSON_WANTED}")
    try:
        held = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is not JSON ({printable(error)}); {_JSON_WANTED}") from error
    if not isinstance(held, dict) or held.keys() != {"class", "init_kwargs"}:
        found = ", ".join(printable(key) for key in list(held)[:4]) if isinstance(held, dict) else type(held).__name__
        raise FileFormatError(f"{path} holds {found or 'nothing'}; {_JSON_WANTED}")
    if not isinstance(held["class"], str) or not isinstance(held["init_kwargs"], dict):
        raise FileFormatError(
            f"{path} has a class that is not a string or init_kwargs that are not an object; {_JSON_WANTED}"
        )
    return held["class"], held["init_kwargs"]


def _read_safetensors(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise DamagedError(f"it is not a safetensors file ({error})") from error


def _read_torch(path: Path, data: bytes) -> dict[str, torch.Tensor]:
    """What torch.save wrote, read by the inert interpreter with a table of tensors only."""
    workspace = Workspace(len(data))
    root = read_archive(memoryview(data), 0, STATE_DICT_GLOBALS, workspace)
    if not isinstance(root, dict) or len(root) > MAX_TENSORS:
        raise DamagedError(f"it holds a {type(root).__name__}, not tensors by name")
    file = PickleFile(path, root, data, ())
    result: dict[str, torch.Tensor] = {}
    total = 0
    for name, record in root.items():
        if not isinstance(name, str) or not isinstance(record, TensorRecord):
            raise DamagedError(f"its entry {printable(name)} is a {type(record).__name__}, not a tensor under a name")
        total += record.numel() * record.dtype.itemsize
        if total > len(data):
            raise DamagedError("its tensors overlap, so that they hold more than the file")
        result[name] = file.tensor(record)
    return result


READERS: dict[str, Callable[[Path, bytes], dict[str, torch.Tensor]]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
}
