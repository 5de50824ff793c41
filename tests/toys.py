"""Small objectives and generators that several tests are made of."""

import torch
from torch import nn

from gan_refine.generators import StyleGan2
from gan_refine.interfaces import HelperGroup
from gan_refine.networks.stylegan2 import Generator


class WithoutHelpers(nn.Module):
    """What an objective has beside `generator_terms`, for one with nothing to train and nothing to prepare."""

    helper_steps = 0

    def prepare(self, rng):
        yield from ()

    def helper_groups(self) -> list[HelperGroup]:
        return []

    def helper_terms(self, fake, labels, rng) -> None:
        return None


class Foreign(nn.Module):
    """A generator of an unknown class, to be pickled: each channel of its images is one of the latents."""

    z_dim = 4

    def __init__(self, channels: int = 1, resolution: int = 16) -> None:
        super().__init__()
        self.channels, self.resolution = channels, resolution
        self.scale = nn.Parameter(torch.ones([]))

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (self.scale * z[:, : self.channels, None, None]).repeat(1, 1, self.resolution, self.resolution)


def small_stylegan2(resolution: int, classes: int, noise_strength: float, **synthesis) -> StyleGan2:
    """A grey StyleGAN2 whose weights are the same each time, with noise of that strength."""
    torch.manual_seed(0)
    net = Generator(8, classes, 8, resolution, 1, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=synthesis)
    for name, parameter in net.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(noise_strength)
    return StyleGan2(net)
