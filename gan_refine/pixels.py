"""Images as bytes and back, by StyleGAN's convention."""

import torch

from gan_refine.errors import NonFiniteError
from gan_refine.interfaces import Images, PixelBytes


def to_uint8(images: Images) -> PixelBytes:
    """Images in [-1, 1] as bytes in 0..255: x * 127.5 + 128, clamped and truncated.

    Raises NonFiniteError for images that are not finite: as bytes they would be black or white.
    """
    if not images.isfinite().all():
        raise NonFiniteError("the images have numbers that are not finite; their network or its input is damaged")
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def from_uint8(images: PixelBytes) -> Images:
    """Bytes as images in [-1, 1], on the same device."""
    return images.to(torch.float32) / 127.5 - 1
