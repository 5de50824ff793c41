"""Writing networks to new files: a pickle in the published format, or a state dict with its description."""

import inspect
import json
import math
from pathlib import Path

import safetensors.torch
import torch

from gan_refine.errors import FileFormatError
from gan_refine.files import atomic_file
from gan_refine.networks.edm_precond import PRECONDITIONINGS
from gan_refine.pickles.arguments import plain_arguments
from gan_refine.pickles.construct import GENERATORS, KNOWN_CLASSES, NetworkFile
from gan_refine.pickles.reader import read_pickle
from gan_refine.pickles.records import DamagedError, PickleFile, printable
from gan_refine.pickles.state_dicts import description_path, is_state_dict, read_description, read_state_dict
from gan_refine.pickles.writer import write_networks

STATE_DICT_SUFFIX = ".safetensors"
ONE_STEP = "one_step"  # the key beside 'ema' that makes an EDM pickle a generator too


def read_networks(path: Path) -> NetworkFile:
    """A network pickle, a file of torch.save that holds networks, or a state dict with its .json beside. Raises FileFormatError."""
    path = Path(path)
    return read_state_dict(path) if is_state_dict(path) else read_pickle(path)


def write_gan(path: Path, g: torch.nn.Module, d: torch.nn.Module | None, g_ema: torch.nn.Module) -> None:
    """A StyleGAN2-ADA pickle with our sources embedded.

    Published tools need a module under D: without a discriminator an empty one is written.
    """
    networks = {"G": g, "D": torch.nn.Sequential() if d is None else d, "G_ema": g_ema}
    write_networks(path, {**networks, "training_set_kwargs": None, "augment_pipe": None})


def write_one_step(path: Path, net: torch.nn.Module, sigma: float) -> None:
    """An EDM pickle with our source embedded, whose network is a one-step generator called with noise of deviation `sigma`."""
    write_networks(path, {"ema": net, ONE_STEP: {"sigma": float(sigma)}})


def one_step_sigma(file: NetworkFile) -> float | None:
    """The noise level that `write_one_step` wrote beside the network; None for other files. Raises FileFormatError."""
    if not isinstance(file, PickleFile) or not isinstance(file.root, dict) or ONE_STEP not in file.root:
        return None
    try:
        entry = plain_arguments(file.root[ONE_STEP], ONE_STEP)
    except DamagedError as error:
        raise FileFormatError(f"{file.path}: the entry {ONE_STEP!r}: {printable(error)}") from error
    sigma = entry.get("sigma") if isinstance(entry, dict) else None
    if not isinstance(sigma, float) or not 0 < sigma < math.inf:
        raise FileFormatError(f"{file.path}: the entry {ONE_STEP!r} holds no noise level; write the file again")
    return sigma


def write_state_dict(path: Path, net: torch.nn.Module) -> None:
    """The weights as `path`.safetensors and their description as JSON beside it; both atomically.

    Raises FileFormatError for another suffix, and if a JSON of that name exists with another description.
    """
    path = Path(path)
    if path.suffix.lower() != STATE_DICT_SUFFIX:
        raise FileFormatError(f"{path} does not end in {STATE_DICT_SUFFIX}, in which state dicts are written")
    described: dict[str, object] = {"class": class_name(net), "init_kwargs": constructor_arguments(net)}
    beside = description_path(path)
    if beside.exists() and not _matches(beside, described):
        raise FileFormatError(f"{beside} already exists with another description; remove it or choose another name")
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    with atomic_file(path, FileFormatError) as stream:
        stream.write(safetensors.torch.save(weights))
    with atomic_file(beside, FileFormatError) as stream:
        stream.write(json.dumps(described, indent=2).encode() + b"\n")


def _matches(path: Path, described: dict[str, object]) -> bool:
    try:
        held = read_description(path)
    except FileFormatError:
        return False
    return held == (described["class"], described["init_kwargs"])


def class_name(net: torch.nn.Module) -> str:
    """The name by which descriptions call the class of `net`. Raises FileFormatError for others."""
    classes = {**GENERATORS, **PRECONDITIONINGS}
    found = next((name for name, cls in classes.items() if type(net) is cls), None)
    if found is None:
        known = ", ".join(KNOWN_CLASSES)
        raise FileFormatError(f"a {type(net).__name__} cannot be written as a state dict; known are {known}")
    return found


def constructor_arguments(net: torch.nn.Module) -> dict[str, object]:
    """What `net`, a persistent object, was constructed with, by name, as JSON gives it back."""
    signature = inspect.signature(type(net).__init__)
    bound = signature.bind(net, *net.init_args, **net.init_kwargs)  # type: ignore[arg-type, misc]
    result: dict[str, object] = {}
    for name, value in list(bound.arguments.items())[1:]:  # without self
        variadic = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        result |= value if variadic else {name: value}
    return json.loads(json.dumps(result))
