"""Exponential moving average of weights."""

import copy
from typing import Generic, TypeVar

import torch

M = TypeVar("M", bound=torch.nn.Module)


class WeightAverage(Generic[M]):
    """A copy of a module, without gradients, that follows it with a half-life counted in images.

    The half-life is at most `rampup_ratio` times the images seen, so that early weights fade quickly; 0 disables this limit.
    Buffers, and parameters that require no gradient, are copied.
    """

    def __init__(self, module: M, halflife_images: float, rampup_ratio: float = 0.0) -> None:
        self.module: M = copy.deepcopy(module)
        self.module.requires_grad_(False)
        self.halflife_images = halflife_images
        self.rampup_ratio = rampup_ratio

    def decay(self, images_seen: int, batch: int) -> float:
        """The weight of the old average after `batch` more images."""
        halflife = self.halflife_images
        if self.rampup_ratio:
            halflife = min(halflife, images_seen * self.rampup_ratio)
        return 0.5 ** (batch / max(halflife, 1e-8))

    @torch.no_grad()
    def update(self, module: M, images_seen: int, batch: int) -> None:
        """One step towards `module`, after a training step that brought the count to `images_seen`."""
        share = 1 - self.decay(images_seen, batch)
        pairs = list(zip(self.module.parameters(), module.parameters(), strict=True))
        moving = [(mine, theirs) for mine, theirs in pairs if theirs.requires_grad]
        if moving:  # all at once: on a GPU a few kernels in place of one for each tensor
            torch._foreach_lerp_([mine for mine, _ in moving], [theirs for _, theirs in moving], share)
        for mine, theirs in pairs:
            if not theirs.requires_grad:
                mine.copy_(theirs)
        for kept, current in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(current)
