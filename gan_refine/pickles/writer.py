"""Writing network pickles that open wherever the published ones do."""

import copy
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from gan_refine.errors import FileFormatError
from gan_refine.files import atomic_file
from gan_refine.foundation import public_persistence
from gan_refine.pickles.records import DamagedError, PickleFile, TensorRecord, named_tensors, printable

PROTOCOL = 4  # the newest that Python 3.7, which the published tools ask for, can read


def write_refined(
    file: PickleFile, weights: Mapping[str, torch.Tensor], path: Path, networks: Sequence[str] = ("G_ema", "G")
) -> None:
    """Writes the bytes of `file` with the values of `weights` in those of its `networks` that are present.

    Nothing else changes: other networks, attributes and embedded sources stay to the byte, tensors keep their dtype.
    Every parameter must be given; buffers that are not given stay. Raises FileFormatError before anything is written.
    """
    output = bytearray(file.data)
    try:
        for key in networks:
            if key in file.networks():
                _replace(file, key, weights, output)
        _check_other_tensors(file, networks, output)
    except DamagedError as error:
        raise FileFormatError(f"{file.path} cannot take these weights: {printable(error)}") from error
    with atomic_file(path, FileFormatError) as stream:
        stream.write(file.file_bytes(output))


def check_refinable(
    file: PickleFile, weights: Mapping[str, torch.Tensor], networks: Sequence[str] = ("G_ema", "G")
) -> None:
    """Raises FileFormatError when write_refined would refuse weights of these names and shapes."""
    try:
        for key in networks:
            if key in file.networks():
                _check_names(key, named_tensors(file.networks()[key]), weights)
    except DamagedError as error:
        raise FileFormatError(f"{file.path} cannot take refined weights: {printable(error)}") from error


def _replace(file: PickleFile, key: str, weights: Mapping[str, torch.Tensor], output: bytearray) -> None:
    records = named_tensors(file.networks()[key])
    _check_names(key, records, weights)
    for name, tensor in weights.items():
        records[name].view(output).copy_(tensor.detach())
    for name, tensor in weights.items():
        written, wanted = records[name].view(output), tensor.detach().to("cpu", records[name].dtype)
        if not torch.equal(_bits(written), _bits(wanted)):
            raise DamagedError(f"{key}.{name} shares its memory with another tensor, but their new values differ")


def _check_names(key: str, records: Mapping[str, TensorRecord], weights: Mapping[str, torch.Tensor]) -> None:
    unknown = [name for name in weights if name not in records]
    missing = [name for name, record in records.items() if record.is_parameter and name not in weights]
    if unknown or missing:
        what = f"the unknown {', '.join(unknown[:4])}" if unknown else f"no {', '.join(missing[:4])}"
        raise DamagedError(f"they have {what} for {key}")
    for name, tensor in weights.items():
        if tuple(tensor.shape) != records[name].shape:
            raise DamagedError(f"{key}.{name} is {list(records[name].shape)} in the file, got {list(tensor.shape)}")
        if records[name].overlaps_itself():
            raise DamagedError(f"{key}.{name} holds one number for several elements, which new weights cannot share")


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """Comparable bytes: NaN equals NaN, and 0 differs from -0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _check_other_tensors(file: PickleFile, networks: Sequence[str], output: bytearray) -> None:
    """Raises DamagedError if replacing weights has changed a tensor outside of `networks`, which shares their memory."""
    replaced = [net for key, net in file.networks().items() if key in networks]
    if not replaced:
        raise DamagedError(f"it has none of the networks {', '.join(networks)}")
    replaced_views = {_place(record) for net in replaced for record in named_tensors(net).values()}
    touched = {place[0] for place in replaced_views}
    others = [net for key, net in file.networks().items() if key not in networks]
    outside = [record for net in others for record in named_tensors(net).values()]
    outside += [record for record in file.tensors if _place(record) not in replaced_views]
    sharing = [record for record in outside if record.storage.start in touched]
    if sum(record.numel() for record in sharing) > len(file.data):
        raise DamagedError("its tensors overlap, so that comparing them would take far longer than reading them")
    for record in sharing:
        if not torch.equal(_bits(record.view(output)), _bits(file.tensor(record))):
            raise DamagedError("a tensor outside of the networks shares its memory with one of theirs that changes")


def _place(record: TensorRecord) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    return record.storage.start, record.offset, record.shape, record.stride


def write_networks(path: Path, networks: Mapping[str, object]) -> None:
    """Writes persistent modules by key ('G', 'D', 'G_ema' or 'ema'), and dicts or None, in the published format; atomic.

    Each module's source is embedded. Copies are written, on the CPU in evaluation mode without gradients; the modules
    themselves do not change. Raises FileFormatError.
    """
    portable = {key: _portable(value) for key, value in networks.items()}
    with atomic_file(path, FileFormatError) as stream, public_persistence():
        pickle.dump(portable, stream, protocol=PROTOCOL)


def _portable(value: object) -> object:
    if not isinstance(value, torch.nn.Module):
        return copy.deepcopy(value)
    return copy.deepcopy(value).cpu().eval().requires_grad_(False)
