"""Generators without spread: one image, as its pixels or as a coordinate network (Cor. 3.4 of arXiv:2305.18455)."""

import math
from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from gan_refine.config import require
from gan_refine.files import atomic_file
from gan_refine.interfaces import Images, ImageSpec, Latents


class Dirac(nn.Module, ABC):
    """A Generator whose latents are all alike: every image is `image()`, which subclasses draw from their parameters.

    With classes every image is labelled as class `label`.
    """

    def __init__(self, spec: ImageSpec, label: int = 0) -> None:
        super().__init__()
        classes = spec.num_classes
        require("label", label, 0 <= label < max(classes, 1), f"a class from 0 to {max(classes, 1) - 1}")
        self.spec = spec
        self.label = label

    @abstractmethod
    def image(self) -> Float[Tensor, "1 c h w"]:
        """The one image, differentiable."""

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        """`n` equal latents, z [n, 1] of zeros; `rng` is left as it is."""
        device = next(self.parameters()).device
        labels = torch.zeros([n, self.spec.num_classes], device=device)
        labels[:, self.label : self.label + 1] = 1
        return Latents(torch.zeros([n, 1], device=device), labels)

    def forward(self, latents: Latents) -> Images:
        return self.image().expand(len(latents), -1, -1, -1)

    def critic(self) -> None:
        """One image comes without a discriminator."""
        return None

    def export(self, path: Path) -> None:
        """Writes the weights as a state dict for `torch.load(weights_only=True)`; atomic."""
        with atomic_file(path) as stream:
            torch.save(self.state_dict(), stream)


class DiracImage(Dirac):
    """An image whose pixels are the parameters: `pixels` [1, C, R, R] at the start."""

    def __init__(self, pixels: Float[Tensor, "1 c h h"], classes: int = 0, label: int = 0) -> None:
        super().__init__(ImageSpec(pixels.shape[1], pixels.shape[2], classes), label)
        self.pixels = nn.Parameter(pixels.detach().clone())

    def image(self) -> Float[Tensor, "1 c h w"]:
        return self.pixels


class CoordinateNetwork(Dirac):
    """An image as a function of the place: sines and cosines of the coordinates, two hidden layers, tanh.

    The frequencies are random, their deviation `frequency` in half turns across the image (Fourier features, arXiv:2006.10739).
    """

    frequencies: Tensor

    def __init__(
        self, spec: ImageSpec, rng: torch.Generator, width: int = 64, frequency: float = 4.0, label: int = 0
    ) -> None:
        super().__init__(spec, label)
        self.register_buffer("frequencies", frequency * torch.randn([2, width], generator=rng))
        self.layers = nn.ModuleList(nn.Linear(*sizes) for sizes in ((2 * width, width), (width, width)))
        self.colour = nn.Linear(width, spec.channels)
        for parameter in self.parameters():  # as nn.Linear's own, and independent of torch's global generator
            reach = 0.0 if parameter.ndim == 1 else 1 / math.sqrt(parameter.shape[1])
            nn.init.uniform_(parameter, -reach, reach, generator=rng)

    def image(self) -> Float[Tensor, "1 c h w"]:
        return self.at(self.spec.resolution)

    def at(self, resolution: int) -> Float[Tensor, "1 c h w"]:
        """The image in another resolution: pixel centres of the same square [-1, 1] x [-1, 1]."""
        line = (torch.arange(resolution, device=self.frequencies.device) + 0.5) * (2 / resolution) - 1
        places = torch.stack(torch.meshgrid(line, line, indexing="ij"), dim=-1)
        phase = math.pi * places @ self.frequencies
        x = torch.cat([phase.sin(), phase.cos()], dim=-1)
        for layer in self.layers:
            x = F.silu(layer(x))
        return self.colour(x).tanh().permute(2, 0, 1)[None]
