"""What a discriminator sees in images: activations of its convolutions, each image on its own."""

import torch
from torch import nn

from gan_refine.interfaces import Images, PerSample

WATCHED = ("fromrgb", "conv0", "conv1")  # names that StyleGAN2's blocks give to their convolutions
SMALLEST_ENERGY = 1e-8


class Features(nn.Module):
    """A frozen discriminator up to its last block, whose statistics of the batch would make an image depend on its neighbours."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator.eval().requires_grad_(False)

    def forward(self, images: Images) -> list[torch.Tensor]:
        """Activations [N, C, H, W] of each convolution of the blocks, in order; differentiable."""
        seen: list[torch.Tensor] = []
        blocks = [getattr(self.discriminator, f"b{res}") for res in self.discriminator.block_resolutions]  # type: ignore[union-attr]
        layers = [getattr(block, name) for block in blocks for name in WATCHED if hasattr(block, name)]
        handles = [layer.register_forward_hook(lambda module, given, found: seen.append(found)) for layer in layers]
        try:
            x, image = None, images
            for block in blocks:
                x, image = block(x, image, force_fp32=True)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def difference(self, images: Images, targets: Images) -> PerSample:
        """Squared distance of the activations, relative to the energy of the target's, a mean over convolutions; at 0 equal."""
        with torch.no_grad():
            wanted = self(targets)
        parts = [
            (a - b).square().flatten(1).sum(1) / (b.square().flatten(1).sum(1) + SMALLEST_ENERGY)
            for a, b in zip(self(images), wanted, strict=True)
        ]
        return torch.stack(parts).mean(0)


def knows(discriminator: nn.Module) -> bool:
    """Whether this is a discriminator whose blocks can be watched."""
    return hasattr(discriminator, "block_resolutions")
