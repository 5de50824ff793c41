"""Exponential moving average of weights."""

import copy
from typing import Generic, TypeVar

import torch

M = TypeVar("M")


class WeightAverage(Generic[M]):
    """A copy of a module, without gradients, that follows it with a half-life counted in images.

    While few images were seen the half-life is at most `rampup_ratio` of them, so that the start is forgotten in time; 0
    switches that off. Buffers, and parameters that require no gradient, are copied as they are.
    """

    def __init__(self, module: M, halflife_images: float, rampup_ratio: float = 0.0) -> None:
        assert isinstance(module, torch.nn.Module), "averages are of torch modules"
        self.module: M = copy.deepcopy(module)
        self.module.requires_grad_(False)  # type: ignore[attr-defined]
        self.halflife_images = halflife_images
        self.rampup_ratio = rampup_ratio

    def decay(self, images_seen: int, batch: int) -> float:
        """What remains of the old average after `batch` more images."""
        halflife = self.halflife_images
        if self.rampup_ratio:
            halflife = min(halflife, images_seen * self.rampup_ratio)
        return 0.5 ** (batch / max(halflife, 1e-8))

    @torch.no_grad()
    def update(self, module: M, images_seen: int, batch: int) -> None:
        """One step towards `module`, after a training step that brought the count to `images_seen`."""
        assert isinstance(module, torch.nn.Module) and isinstance(self.module, torch.nn.Module), "modules"
        share = 1 - self.decay(images_seen, batch)
        for mine, theirs in zip(self.module.parameters(), module.parameters(), strict=True):
            if theirs.requires_grad:
                mine.lerp_(theirs, share)
            else:
                mine.copy_(theirs)
        for kept, current in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(current)
