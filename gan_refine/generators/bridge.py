"""A generator larger than its teacher: refined through a resize, what the teacher cannot see anchored to the original."""

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
from gan_refine.interfaces import Generator, Images, ImageSpec, Latents, Parted, PerSample

FEW = 4  # large images at a time


@dataclass(frozen=True)
class BridgeOptions:
    """`filter` is how the teacher's images were made smaller; `measure` at which size the metric looks."""

    anchor: float = 1.0  # weight of the anchored band's squared error, a pixel of which counts as one of the teacher's
    filter: FilterName = "lanczos"
    measure: Literal["auto", "full", "teacher"] = "auto"  # auto: full size where there is a detector for it

    def __post_init__(self) -> None:
        require("bridge", f"resize,anchor={self.anchor:g}", self.anchor >= 0, "an anchor of at least 0")


class Bridged(nn.Module):
    """A Generator that shows `generator`'s images at the teacher's size; its parameters and its file are `generator`'s.

    `original` is a frozen generator of the same latents. Copies share it, and no checkpoint holds it.
    """

    def __init__(self, generator: Generator, original: Generator, resize: Resize, anchor: float) -> None:
        super().__init__()
        self.generator = generator
        self.resize = resize
        self.anchor = anchor
        self.spec = ImageSpec(generator.spec.channels, len(resize.weights), generator.spec.num_classes)
        self._original = (original,)  # in a tuple, so that torch does not take it for a part of this module

    def __deepcopy__(self, memo: dict) -> "Bridged":
        return self.around(copy.deepcopy(self.generator, memo))

    def around(self, generator: Generator) -> "Bridged":
        """The same bridge for another generator of the same size."""
        return Bridged(generator, self._original[0], self.resize, self.anchor)

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        return self.generator.draw(n, rng)

    def forward(self, latents: Latents) -> Images:
        """Differentiable images of the teacher's size in [-1, 1]."""
        return self._shown(self.generator(latents))

    def anchored(self, latents: Latents) -> tuple[Images, PerSample]:
        """The same images, and `anchor` times the squared error of what the resize removes, over its factor squared.

        Its gradient is zero for every change of the full images that the teacher sees, and the teacher's for all others.
        """
        images = self.generator(latents)
        if not self.anchor:
            return self._shown(images), torch.zeros(len(images), device=images.device)
        # Not within no_grad, where networks may choose half precision; nothing here requires a gradient.
        original = self._original[0](latents)
        strayed = self.resize.removed(images - original).square().flatten(1).sum(1)
        return self._shown(images), self.anchor / self.resize.factor**2 * strayed

    @torch.no_grad()
    def change(self, latents: Latents) -> dict[str, float]:
        """Root mean squares, in [-1, 1] units, of what refinement changed in the full images: seen by the teacher, and not."""
        seen = unseen = 0.0
        for part in latents.split(FEW):
            change = self.generator(part) - self._original[0](part)
            removed = self.resize.removed(change)
            seen += float((change - removed).square().flatten(1).mean(1).sum())
            unseen += float(removed.square().flatten(1).mean(1).sum())
        return {"seen": math.sqrt(seen / len(latents)), "unseen": math.sqrt(unseen / len(latents))}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Those of the generator; none if it is not divided."""
        return self.generator.parameter_groups() if isinstance(self.generator, Parted) else {}

    def critic(self) -> nn.Module | None:
        """The discriminator in the generator's file, which knows the full size."""
        return self.generator.critic()

    def export(self, path: Path) -> None:
        """Writes the full-size generator as its family does."""
        self.generator.export(path)

    def _shown(self, images: Large) -> Images:
        return self.resize.down(images).clamp(-1, 1)  # bytes of smaller images cannot overshoot either


def bridge(generator: Generator, teacher: ImageSpec, options: BridgeOptions) -> Bridged:
    """The generator as it is now, seen at the teacher's size and anchored to itself. Raises MismatchError unless the sizes fit."""
    mine = generator.spec
    if not can_bridge(mine, teacher):
        raise MismatchError(
            f"--bridge=resize needs a GAN whose images are 2, 4, 8 ... times as large as the teacher's and of its colours, "
            f"and this GAN makes {mine} for a teacher of {teacher}; leave it out or choose another teacher"
        )
    original = copy.deepcopy(generator)
    assert isinstance(original, nn.Module), "generators are torch modules"
    original.requires_grad_(False)
    resize = Resize(mine.resolution, teacher.resolution, options.filter)
    return Bridged(generator, original, resize.to(next(generator.parameters()).device), options.anchor)


def can_bridge(gan: ImageSpec, teacher: ImageSpec) -> bool:
    """Whether the GAN's images are larger by a power of two, and of the same channels."""
    factor, rest = divmod(gan.resolution, teacher.resolution)
    return gan.channels == teacher.channels and not rest and factor > 1 and factor & (factor - 1) == 0
