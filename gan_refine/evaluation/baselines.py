"""Baselines without learning, which a refined generator must beat before it has shown anything.

`baselines(generator)` gives them by name, each a generator with the latents of the original:

    flat      every pixel near the image set's flat colour is set to it: clears the residue on flat ground, as a threshold does
    psi1.05   truncation 1.05: w a little further from its mean, which makes images more varied
    psi0.9    truncation 0.9

One that the generator does not offer (no flat ground in its images, no truncation) is left out. A fourth baseline is a run of its
own, which goes on with the GAN's training on teacher samples:
--objective=di-gan,diff_instruct=0,pixels=0,imagenet=0,relativistic=false,score_steps=1.
"""

from pathlib import Path

import torch

from gan_refine.errors import MismatchError
from gan_refine.evaluation.images import grid_latents, render
from gan_refine.generators import PretrainedGenerator
from gan_refine.interfaces import Generator, Images, Latents, PixelBytes

TRUNCATIONS = (1.05, 0.9)
RADIUS = 16  # levels of 255: a pixel is near a colour if no channel differs by so much
LEAST_SHARE = 0.05  # of the pixels that must be near a colour for it to be a ground, and not the most frequent of many
NUM_IMAGES = 500  # of the generator, in which its flat colour is looked for

Colour = tuple[int, ...]  # a level for each channel


class FlatGround(Generator):
    """The images of `generator` with every pixel near `colour` set to it; gray images and black: bytes below 16 become 0."""

    def __init__(self, generator: Generator, colour: Colour) -> None:
        super().__init__()
        self.generator, self.spec = generator, generator.spec
        self.register_buffer("levels", torch.tensor(colour).view(-1, 1, 1))

    levels: torch.Tensor

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        return self.generator.draw(n, rng)

    def forward(self, latents: Latents) -> Images:
        images = self.generator(latents)
        near = is_near((images * 127.5 + 128).clamp(0, 255).floor(), self.levels)
        return images.where(~near, self.levels / 127.5 - 1)

    def export(self, path: Path) -> None:
        raise NotImplementedError("a baseline is measured, not written")


def is_near(levels: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """Whether each pixel [N, 1, H, W] of `levels` [N, C, H, W] differs from `colour` [C, 1, 1] by less than RADIUS."""
    return ((levels - colour).abs() < RADIUS).all(dim=1, keepdim=True)


def flat_colour(images: PixelBytes) -> Colour | None:
    """The most frequent colour of bytes [N, C, H, W], or None if less than LEAST_SHARE of the pixels are near it."""
    pixels = images.movedim(1, -1).flatten(0, -2).to(torch.int64)
    numbers = (pixels * 256 ** torch.arange(images.shape[1], device=images.device)).sum(dim=1)
    colour = pixels[int((numbers == numbers.mode().values).nonzero()[0])]
    near = is_near(images.to(torch.int64), colour.view(-1, 1, 1))
    return tuple(colour.tolist()) if float(near.double().mean()) >= LEAST_SHARE else None


def baselines(generator: Generator) -> dict[str, Generator]:
    """The baselines that the generator offers, by name."""
    found: dict[str, Generator] = {}
    if (colour := flat_colour(render(generator, grid_latents(generator, seed=0, n=NUM_IMAGES)))) is not None:
        found["flat"] = FlatGround(generator, colour)
    if isinstance(generator, PretrainedGenerator):
        for psi in TRUNCATIONS:
            try:
                found[f"psi{psi}"] = generator.truncated(psi)
            except MismatchError:
                continue  # a family without truncation
    return found
