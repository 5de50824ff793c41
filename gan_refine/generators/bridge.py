"""A generator larger than its teacher: refined through a resize, with the details that it removes tied to the original's."""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from gan_refine.config import require
from gan_refine.errors import MismatchError
from gan_refine.generators.resizing import FilterName, Large, Resize
from gan_refine.interfaces import Generator, Images, ImageSpec, Latents, PerSample

BATCH = 4  # full-size images at a time


@dataclass(frozen=True)
class BridgeOptions:
    """`filter` is how the teacher's images were made smaller; `measure` is the size of the images that the metric sees."""

    anchor: float = 1.0  # weight of the squared error in what the resize removes, per pixel of the teacher's size
    filter: FilterName = "lanczos"
    measure: Literal["teacher", "full"] = "teacher"  # full: against data, as the teacher has no samples of this size

    def __post_init__(self) -> None:
        require("anchor", self.anchor, 0 <= self.anchor <= 1e12, "an anchor from 0 to 1e12")


class Bridged(Generator):
    """Makes `generator`'s images at the teacher's size; parameters and file are those of `generator`.

    `original` is a frozen generator of the same latents. Copies share it, and no checkpoint holds it.
    """

    def __init__(self, generator: Generator, original: Generator, resize: Resize, anchor: float) -> None:
        super().__init__()
        self.generator = generator
        self.resize = resize
        self.anchor = anchor
        self.spec = ImageSpec(generator.spec.channels, len(resize.weights), generator.spec.num_classes)
        self._original = (original,)  # in a tuple, so that it is not registered as a submodule

    def __deepcopy__(self, memo: dict) -> "Bridged":
        return self.with_full_size(copy.deepcopy(self.generator, memo))

    def full_size(self) -> Generator:
        return self.generator

    def with_full_size(self, generator: Generator) -> "Bridged":
        return Bridged(generator, self._original[0], self.resize, self.anchor)

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        return self.generator.draw(n, rng)

    def forward(self, latents: Latents) -> Images:
        """Differentiable images of the teacher's size in [-1, 1]."""
        return self._resized(self.generator(latents))

    def forward_fp32(self, latents: Latents) -> Images:
        return self._resized(self.generator.forward_fp32(latents))

    def forward_regularized(self, latents: Latents) -> tuple[Images, PerSample]:
        """The same images, and `anchor` times the squared error of what the resize removes, over its factor squared.

        Its gradient is zero for every change of the full images that the teacher sees, and the teacher's for all others.
        """
        images = self.generator.forward_fp32(latents)
        if not self.anchor:
            return self._resized(images), torch.zeros(len(images), device=images.device)
        original = self._original[0].forward_fp32(latents)
        error = self.resize.removed(images - original).square().flatten(1).sum(1)
        return self._resized(images), self.anchor / self.resize.factor**2 * error

    @torch.no_grad()
    def change(self, latents: Latents) -> dict[str, float]:
        """Root mean squares, in [-1, 1] units, of the change of full-size images: visible at the teacher's size, and not."""
        seen = unseen = 0.0
        for part in latents.split(BATCH):
            change = self.generator(part) - self._original[0](part)
            removed = self.resize.removed(change)
            seen += float((change - removed).square().flatten(1).mean(1).sum())
            unseen += float(removed.square().flatten(1).mean(1).sum())
        return {"seen": math.sqrt(seen / len(latents)), "unseen": math.sqrt(unseen / len(latents))}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        return self.generator.parameter_groups()

    def kept_parts(self) -> tuple[str, ...]:
        return self.generator.kept_parts()

    def discriminator(self) -> nn.Module | None:
        """The discriminator in the generator's file, which is for images of the full size."""
        return self.generator.discriminator()

    def export(self, path: Path) -> None:
        """Writes the full-size generator as its family does."""
        self.generator.export(path)

    def _resized(self, images: Large) -> Images:
        return self.resize.down(images).clamp(-1, 1)  # as images of the teacher's size are


def bridge(generator: Generator, teacher: ImageSpec, options: BridgeOptions) -> Bridged:
    """The generator at the teacher's size, anchored to a copy of itself as it is now. Raises MismatchError unless the sizes fit."""
    mine = generator.spec
    if not can_bridge(mine, teacher):
        raise MismatchError(
            f"--bridge=resize needs a GAN whose images are 2, 4, 8 ... times as large as the teacher's and have as many channels, "
            f"and this GAN makes {mine} for a teacher of {teacher}; leave it out or choose another teacher"
        )
    original = copy.deepcopy(generator).requires_grad_(False)
    resize = Resize(mine.resolution, teacher.resolution, options.filter)
    return Bridged(generator, original, resize.to(next(generator.parameters()).device), options.anchor)


def can_bridge(gan: ImageSpec, teacher: ImageSpec) -> bool:
    """Whether the GAN's images are larger by a power of two, and of the same channels."""
    factor, rest = divmod(gan.resolution, teacher.resolution)
    return gan.channels == teacher.channels and not rest and factor > 1 and factor & (factor - 1) == 0
