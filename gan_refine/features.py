"""Features of images that need no network but the teacher: pixels, and activations of the teacher's own network."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional as F

from gan_refine.interfaces import Denoiser, Images, ImageSpec

MOST_PIXELS = 256  # so that the covariance of 2,000 images has full rank
BLOCKS = "UNetBlock"  # the class of the blocks of EDM's networks, here and in files that are trusted
Vectors = Float[Tensor, "n d"]


def projection(fan_in: int, fan_out: int) -> Float32[Tensor, "i o"]:
    """Fixed random signs divided by sqrt(fan_out), which preserve the expected squared length. The same on every machine."""
    signs = np.random.RandomState(0).randint(0, 2, size=(fan_in, fan_out)) * 2 - 1  # legacy: its streams never change
    return torch.from_numpy(signs / np.sqrt(fan_out)).to(torch.float32)


def activation_layers(network: nn.Module) -> list[nn.Module]:
    """The blocks of an EDM network; of any other network, its convolutions."""
    blocks = [module for module in network.modules() if BLOCKS in {cls.__name__ for cls in type(module).__mro__}]
    return blocks or [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def mean_activations(layers: list[nn.Module], run: Callable[[], object]) -> Vectors:
    """The activations of the layers while `run` runs their network, averaged over the image, side by side; differentiable."""
    pooled: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: pooled.append(out.to(torch.float32).mean(dim=(2, 3))))
        for layer in layers
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(pooled, dim=1)


def teacher_activations(teacher: Denoiser, layers: list[nn.Module], noisy: Images, sigma: float) -> Vectors:
    """The mean activations of the teacher's layers while it denoises images of one noise level, without classes."""
    levels = torch.full([len(noisy), 1, 1, 1], sigma, device=noisy.device)
    labels = torch.zeros([len(noisy), teacher.spec.num_classes], device=noisy.device)
    return mean_activations(layers, lambda: teacher(noisy, levels, labels))


def pooling(spec: ImageSpec) -> int:
    """The side of the squares over which pixels are averaged until at most MOST_PIXELS values are left."""
    side = spec.resolution
    while side % 2 == 0 and spec.channels * side**2 > MOST_PIXELS:
        side //= 2
    return spec.resolution // side


def pooled_pixels(images: Images) -> Vectors:
    """The pixels, averaged over squares as `pooling` says."""
    spec = ImageSpec(images.shape[1], images.shape[2])
    return F.avg_pool2d(images, pooling(spec)).flatten(1)
