"""The Inception detector of FID, KID and the inception score, from plain weights or a TorchScript archive."""

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from gan_refine import assets
from gan_refine.errors import FileFormatError, UserError, first_line
from gan_refine.interfaces import ImageSpec, PixelBytes
from gan_refine.metrics.detectors import Device, NetworkDetector, Outputs, rgb
from gan_refine.metrics.torchscript import is_archive, read_tensors
from gan_refine.networks.inception import INPUT_SIZE, InceptionV3

PUBLISHED = "6726825d"  # how the SHA-256 of pt_inception-2015-12-05-6726825d.pth starts
NAME = "inception"
IN_CATALOG = "inception-2015-12-05"
COUNTER = "num_batches_tracked"  # of training steps; nothing here depends on it

# Where the published TorchScript archive keeps what the plain weights call by other names.
STEM = {"Conv2d_1a_3x3": "conv", "Conv2d_2a_3x3": "conv_1", "Conv2d_2b_3x3": "conv_2"}
STEM |= {"Conv2d_3b_1x1": "conv_3", "Conv2d_4a_3x3": "conv_4"}
MIXED = ["5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"]
TOWERS_A = {"branch1x1": "conv", "branch5x5": "tower", "branch3x3dbl": "tower_1", "branch_pool": "tower_2_conv"}
TOWERS_B = {"branch3x3": "conv", "branch3x3dbl": "tower"}
TOWERS_C = {"branch1x1": "conv", "branch7x7": "tower", "branch7x7dbl": "tower_1", "branch_pool": "tower_2_conv"}
TOWERS_D = {"branch3x3": "tower", "branch7x7x3": "tower_1"}
TOWERS_E = {"branch1x1": "conv", "branch3x3": "tower", "branch3x3dbl": "tower_1", "branch_pool": "tower_2_conv"}
TOWERS = dict(zip(MIXED, [TOWERS_A] * 3 + [TOWERS_B] + [TOWERS_C] * 4 + [TOWERS_D] + [TOWERS_E] * 2, strict=True))
FORKS = {"2a": "mixed_conv", "2b": "mixed_conv_1", "3a": "mixed_conv", "3b": "mixed_conv_1"}
FIELDS = {"conv.weight": ["weight", "conv_weight"], "bn.weight": ["gamma", "bn_weight"]}
FIELDS |= {"bn.bias": ["beta", "bias", "bn_bias"], "bn.running_mean": ["mean", "running_mean", "bn_running_mean"]}
FIELDS |= {"bn.running_var": ["var", "running_var", "bn_running_var"]}


@dataclass(frozen=True)
class InceptionOptions:
    """`inception,path=FILE,depth=768`. `trust` says that FILE holds the published weights though its digest is another."""

    path: str | None = None
    depth: Literal["64", "192", "768", "2048"] = "2048"
    trust: bool = False


class InceptionDetector(NetworkDetector):
    """Features of RGB images of any size; grey ones are shown as three equal channels."""

    batch = 50
    takes = "uint8 images of 1 or 3 channels [N, C, H, W]"

    def __init__(self, name: str, network: InceptionV3, depth: int = 2048, device: Device = "cpu") -> None:
        super().__init__(name, ImageSpec(3, INPUT_SIZE), depth, network, device)
        if self.device.type == "cpu":  # 11.5 instead of 7.0 images a second of one thread
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def accepts(self, spec: ImageSpec) -> bool:
        return spec.channels in (1, 3)

    def _outputs(self, images_uint8: PixelBytes) -> Outputs:
        activations = self.network(rgb(images_uint8).to(torch.float32))
        return Outputs(activations.features[self.num_features], activations.logits_unbiased)


def open_inception(options: InceptionOptions, device: Device) -> InceptionDetector:
    """The detector from the file of the options, by default that of the catalog.

    It is called `inception`, so that its distance is an FID, only with the published weights and the last features.
    """
    path = _file(options.path)
    digest = assets.sha256(path)
    published = options.trust or digest.startswith(PUBLISHED)
    name = NAME if published else f"{NAME}-{digest[:8]}"
    if options.depth != "2048":
        name += f"-{options.depth}"
    return InceptionDetector(name, load_inception(path), int(options.depth), device)


def load_inception(path: Path) -> InceptionV3:
    """The network with the weights of a plain file (opened with weights_only) or a TorchScript archive (read, never run)."""
    with torch.device("meta"):  # no time for weights that are replaced at once
        network = InceptionV3()
    wanted = network.state_dict()
    found = _from_archive(read_tensors(path), wanted, path) if is_archive(path) else _read_plain(path)
    counters = {key: torch.tensor(0) for key in wanted if key.endswith(COUNTER)}
    try:
        weights = {key: value.to(wanted[key].dtype) for key, value in found.items() if key in wanted}
        unknown = sorted(set(found) - set(wanted))
        if unknown:
            raise RuntimeError(f"it holds {unknown[0]}, which is none of its weights")
        network.load_state_dict(counters | weights, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileFormatError(f"{path}: weights do not fit Inception-v3 ({reason})") from error
    return network


def _read_plain(path: Path) -> Mapping[str, Tensor]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise FileFormatError(
            f"{path} is neither plain weights nor a TorchScript archive ({first_line(error)})"
        ) from error
    if not isinstance(weights, Mapping):
        raise FileFormatError(f"{path} holds no table of weights by name")
    return weights


def _file(path: str | None) -> Path:
    """The weights file: the one named, or the catalog's."""
    if path is None:
        try:
            return assets.resolve("detector", IN_CATALOG)
        except UserError as error:
            raise FileFormatError(f"{error}; or name the weights file: inception,path=FILE") from error
    if not Path(path).is_file():
        raise FileFormatError(f"path={path} of detector inception is not a file")
    return Path(path)


def _from_archive(found: dict[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The archive's tensors by our names. One saved from a module with our names is taken as it is."""
    if set(wanted) == set(found):
        return found
    flat = {name.replace(".", "_"): tensor for name, tensor in found.items()}
    return {name: _lookup(name, flat, like, path) for name, like in wanted.items() if not name.endswith(COUNTER)}


def _lookup(name: str, flat: dict[str, Tensor], like: Tensor, path: Path) -> Tensor:
    if name.startswith("fc."):
        candidates = ["output_" + name.removeprefix("fc.")]
    else:
        layer, field = re.fullmatch(r"(.+?)\.((?:conv|bn)\.\w+)", name).groups()  # type: ignore[union-attr]
        candidates = [f"layers_{_place(layer)}_{text}" for text in FIELDS.get(field, [])]
    for candidate in candidates:
        if candidate in flat:
            return flat[candidate]
    if name.endswith("bn.weight"):  # the graph of 2015 normalises without a scale
        return torch.ones(like.shape)
    raise FileFormatError(f"{path} is no archive of Inception-v3: it lacks {name}, sought as {' or '.join(candidates)}")


def _place(layer: str) -> str:
    """Mixed_5b.branch5x5_2 -> mixed_tower_conv_1"""
    if layer in STEM:
        return STEM[layer]
    block, _, branch = layer.partition(".")
    number = MIXED.index(block.removeprefix("Mixed_"))
    mixed = f"mixed_{number}" if number else "mixed"
    towers = TOWERS[MIXED[number]]
    if branch in towers:
        return f"{mixed}_{towers[branch]}"
    stem, _, step = branch.rpartition("_")
    if step in FORKS:
        return f"{mixed}_{towers[stem]}_{FORKS[step]}"
    return f"{mixed}_{towers[stem]}_conv" + (f"_{int(step) - 1}" if step != "1" else "")
