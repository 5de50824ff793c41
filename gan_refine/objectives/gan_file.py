"""What an objective can take from the GAN beside its images."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from gan_refine.interfaces import ImageSpec
from gan_refine.labels import Frequencies


@dataclass(frozen=True)
class GanFile:
    """The discriminator in the GAN's file, which is built only when an objective asks for it, and the class frequencies.

    `frequencies` None means that all classes are drawn equally often.
    """

    discriminator: Callable[[], nn.Module | None] = lambda: None
    frequencies: Frequencies | None = None


def accepts_images(discriminator: nn.Module, spec: ImageSpec) -> bool:
    """Whether a discriminator is for images of that size, as far as it tells."""
    return getattr(discriminator, "img_resolution", spec.resolution) == spec.resolution
