"""A teacher as a generator of its own samples, so that they are shown as a GAN's images are."""

from pathlib import Path

import torch

from gan_refine.errors import MismatchError
from gan_refine.interfaces import Denoiser, Generator, Images, Latents
from gan_refine.labels import draw_labels
from gan_refine.sampling import SAMPLERS


class SampledTeacher(Generator):
    """z ~ N(0, I) in the shape of an image -> a sample, with `steps` steps of a deterministic sampler of SAMPLERS."""

    def __init__(self, denoiser: Denoiser, steps: int, sampler: str = "unipc") -> None:
        super().__init__()
        self.denoiser, self.steps, self.sampler = denoiser, steps, sampler
        self.spec = denoiser.spec

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        device = next(self.denoiser.parameters()).device
        z = torch.randn([n, self.spec.channels, self.spec.resolution, self.spec.resolution], generator=rng)
        return Latents(z.to(device), draw_labels(n, self.spec.num_classes, rng).to(device))

    @torch.no_grad()
    def forward(self, latents: Latents) -> Images:
        images = SAMPLERS[self.sampler](self.denoiser, latents.z, latents.labels, steps=self.steps)
        return images.to(torch.float32).clamp(-1, 1)

    def export(self, path: Path) -> None:
        raise MismatchError("samples of a teacher have no file of a generator; copy the teacher's own file")
