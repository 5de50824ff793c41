"""Training images in memory."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from gan_refine.pixels import from_uint8


@dataclass(frozen=True)
class Images:
    """Images as uint8 [N, C, R, R], their classes as int64 [N], and how many of these a network of that name is told."""

    pixels: torch.Tensor
    classes: torch.Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        """Float32 images in [-1, 1]."""
        return from_uint8(self.pixels[index.to(self.pixels.device)])

    def labels(self, index: torch.Tensor) -> torch.Tensor:
        """One-hot labels [N, num_classes] of those images: empty for a network without classes."""
        if not self.num_classes:
            return torch.zeros([len(index), 0], device=self.pixels.device)
        return F.one_hot(self.classes[index.to(self.classes.device)], self.num_classes).to(torch.float32)
