"""A generator with closed forms: x = scale z + shift in every pixel."""

from pathlib import Path

import torch
from torch import nn

from gan_refine.interfaces import Generator, Images, ImageSpec, Latents


class AffineGenerator(Generator):
    """Gaussian images with the two parameters `scale` and `shift`; for tests and toys."""

    def __init__(self, scale: float, shift: float, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = spec
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.shift = nn.Parameter(torch.tensor(float(shift)))

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        shape = [n, self.spec.channels, self.spec.resolution, self.spec.resolution]
        return Latents(torch.randn(shape, generator=rng, device=rng.device), torch.zeros([n, 0], device=rng.device))

    def forward(self, latents: Latents) -> Images:
        return self.scale * latents.z + self.shift

    def export(self, path: Path) -> None:
        torch.save(self.state_dict(), path)
