"""Pulls: what holds a generator to the one that it was before refinement."""

import copy

import torch
from torch import nn

from gan_refine.interfaces import Generator, Images, Latents, PerSample


class Pulls:
    """Keeps a frozen copy of `generator` as it is now, if a weight is not 0. No checkpoint holds it: it comes from the file."""

    def __init__(self, generator: Generator, elastic: float, keep_images: float) -> None:
        self.elastic, self.keep_images = elastic, keep_images
        self.original: Generator | None = None
        self._origins: dict[int, torch.Tensor] = {}
        if elastic or keep_images:
            self.original = copy.deepcopy(generator)
            assert isinstance(self.original, nn.Module), "generators are torch modules"
            self.original.requires_grad_(False)
            pairs = zip(generator.parameters(), self.original.parameters(), strict=True)
            self._origins = {id(parameter): origin for parameter, origin in pairs}

    def images_error(self, images: Images, latents: Latents) -> PerSample | float:
        """`keep_images` times the squared distance, summed over pixels, to the original's images of the same latents."""
        if not self.keep_images:
            return 0.0
        assert self.original is not None, "kept with a weight above 0"
        # Not within no_grad, where networks may choose half precision; nothing here requires a gradient.
        return self.keep_images * (images - self.original(latents)).square().flatten(1).sum(1)

    @torch.no_grad()
    def draw_back(self, optimizer: torch.optim.Optimizer) -> None:
        """After the optimiser's step: w becomes the minimum of |w' - w|^2 / (2 lr) + elastic / 2 |w' - w_0|^2 over w'.

        This proximal step of L2-SP (arXiv:1802.01483) stays out of the gradient, whose size Adam divides by, as weight decay
        does in arXiv:1711.05101: any weight is stable, and a large one leaves nothing but the original.
        """
        if not self.elastic:
            return
        for group in optimizer.param_groups:
            share = 1 - 1 / (1 + float(group["lr"]) * self.elastic)
            for parameter in group["params"]:
                parameter.lerp_(self._origins[id(parameter)], share)
