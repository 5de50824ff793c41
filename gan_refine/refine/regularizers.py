"""The L2 regularizer that keeps a generator's images close to those of the original."""

import copy

from gan_refine.interfaces import Generator, Images, Latents, PerSample


class L2Regularizer:
    """`weight` times the squared distance, summed over pixel values, to the original generator's images of the same latents.

    Keeps a frozen copy of `generator` as it is now unless `weight` is 0. No checkpoint holds it: it comes from the file.
    """

    def __init__(self, generator: Generator, weight: float) -> None:
        self.weight = weight
        self.original = copy.deepcopy(generator).requires_grad_(False) if weight else None

    def __call__(self, images: Images, latents: Latents) -> PerSample | float:
        """The regularization loss of each sample."""
        if self.original is None:
            return 0.0
        return self.weight * (images - self.original.forward_fp32(latents)).square().flatten(1).sum(1)


def forward_regularized(
    generator: Generator, regularizer: L2Regularizer, latents: Latents
) -> tuple[Images, PerSample | float]:
    """Images, and for each sample the sum of the generator's own regularization loss and that of `regularizer`."""
    images, own = generator.forward_regularized(latents)
    return images, own + regularizer(images, latents)
