"""Pickles as TensorFlow's StyleGAN2 wrote them, made from networks of ours by the inverse of the conversion."""

import math
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import torch

from gan_refine.networks.stylegan2 import Discriminator, Generator

Variables = list[tuple[str, np.ndarray]]


class Network:
    """Stands for dnnlib.tflib.network.Network, which pickles itself as a dict of these fields."""

    def __init__(self, static_kwargs: dict, variables: Variables, components: Mapping[str, "Network"]) -> None:
        self.version = 5
        self.name = "network"
        self.static_kwargs = EasyDict(static_kwargs)
        self.components = EasyDict(components)
        self.build_module_src = "import os; os.system('touch ran')\n"
        self.build_func_name = "G_main"
        self.variables = variables


class EasyDict(dict):
    """Stands for dnnlib.util.EasyDict."""


def dump(networks: object, protocol: int = 4) -> bytes:
    with named_as_published():
        return pickle.dumps(networks, protocol=protocol)


@contextmanager
def named_as_published() -> Iterator[None]:
    """The two classes under the names that such files hold."""
    modules = {name: ModuleType(name) for name in ("dnnlib", "dnnlib.util", "dnnlib.tflib", "dnnlib.tflib.network")}
    places = {EasyDict: "dnnlib.util", Network: "dnnlib.tflib.network"}
    before = {name: sys.modules.get(name) for name in modules}
    try:
        sys.modules.update(modules)
        for cls, place in places.items():
            setattr(modules[place], cls.__name__, cls)
            cls.__module__ = place
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _arrays(net: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in net.state_dict().items() if "resample_filter" not in name}


def _kernel(array: np.ndarray, turned: bool = False) -> np.ndarray:
    array = array.transpose(2, 3, 1, 0)
    return np.ascontiguousarray(array[::-1, ::-1] if turned else array)


def _own(array: np.ndarray, name: str) -> np.ndarray:
    """Dense weights transposed, kernels as height, width, in, out; scalars as TensorFlow gives them."""
    if not array.ndim:
        return np.float32(array)
    if name.endswith("weight"):
        return np.ascontiguousarray(array.T) if array.ndim == 2 else _kernel(array)
    return array


def generator(net: Generator, **static: object) -> Network:
    """The generator as TensorFlow had it: variables of two components and dlatent_avg of its own."""
    mapping: Variables = []
    synthesis: Variables = []
    own: Variables = []
    for name, array in _arrays(net).items():
        parts = name.split(".")
        if name == "mapping.w_avg":
            own.append(("dlatent_avg", array))
        elif parts[0] == "mapping":
            layer = "LabelEmbed" if parts[1] == "embed" else parts[1].replace("fc", "Dense")
            mapping.append((f"{layer}/{parts[2]}", _own(array, name)))
        else:
            synthesis.append(_synthesis_variable(parts[1:], array))
    components = {"synthesis": Network({}, synthesis, {}), "mapping": Network({}, mapping, {})}
    return Network(static, own, components)


def _synthesis_variable(parts: list[str], array: np.ndarray) -> tuple[str, np.ndarray]:
    size = int(parts[0][1:])
    folder, layer, field = f"{size}x{size}", parts[1], "_".join(parts[2:])
    if layer == "const":
        return f"{folder}/Const/const", array[None]
    if field == "noise_const":
        first = 0 if size == 4 else 2 * int(math.log2(size)) - 5
        return f"noise{first + (layer == 'conv1' and size > 4)}", array[None, None]
    names = {"conv0": "Conv0_up", "conv1": "Conv" if size == 4 else "Conv1", "torgb": "ToRGB", "skip": "Skip"}
    place = f"{folder}/{names[layer]}/{field.replace('affine', 'mod')}"
    if field == "affine_bias":
        return place, array - 1
    if field == "weight" and layer in ("conv0", "skip"):
        return place, _kernel(array, turned=True)
    return place, _own(array, field)


def discriminator(net: Discriminator, **static: object) -> Network:
    """The discriminator as TensorFlow had it: one network without components."""
    layers = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip", "conv": "Conv"}
    variables: Variables = []
    for name, array in _arrays(net).items():
        part, layer, field = name.split(".")
        if part == "mapping":
            place = "LabelEmbed" if layer == "embed" else layer.replace("fc", "Mapping")
        elif layer == "out":
            place = "Output"
        else:
            place = f"{part[1:]}x{part[1:]}/{'Dense0' if layer == 'fc' else layers[layer]}"
        variables.append((f"{place}/{field}", _own(array, field)))
    return Network(static, variables, {})
