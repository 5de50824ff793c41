"""Diff-Instruct for target pools, which the generator learns in the features of the GAN's own discriminator and in pixels."""

from dataclasses import dataclass

import torch
from torch import nn

from gan_refine.config import require
from gan_refine.interfaces import Denoiser, Images, PerSample
from gan_refine.objectives.diff_instruct import DiffInstruct, DiffInstructOptions
from gan_refine.objectives.gan_file import GanFile, accepts_images

FEATURE_LAYERS = ("fromrgb", "conv0", "conv1")  # names that StyleGAN2's blocks give to their convolutions
SMALLEST_ENERGY = 1e-8


@dataclass(frozen=True)
class DiffInstructPerceptualOptions(DiffInstructOptions):
    """Diff-Instruct's options with a narrow distribution of sigma and an averaged score model, and the perceptual weight."""

    sigma_mean: float = -0.6
    sigma_std: float = 0.3
    score_ema: int = 2000
    feature_weight: float = 0.25  # of the distance in features, for each pixel value; 0 = pixels alone

    def __post_init__(self) -> None:
        super().__post_init__()
        require("feature_weight", self.feature_weight, self.feature_weight >= 0, "a number of at least 0")


class DiffInstructPerceptual(DiffInstruct):
    """Diff-Instruct's gradient (eq. 3.2 of arXiv:2305.18455); pools are learned by squared error plus a perceptual distance.

    The squared error alone asks for the mean of all images that a latent could become, which is a blur. The perceptual distance
    is between activations of the discriminator in the GAN's file. Without one of the teacher's size, pixels alone count.
    """

    Options = DiffInstructPerceptualOptions
    options: DiffInstructPerceptualOptions

    def __init__(
        self, teacher: Denoiser, options: DiffInstructPerceptualOptions | None = None, gan: GanFile | None = None
    ) -> None:
        super().__init__(teacher, options)
        found = gan.discriminator() if gan is not None and self.options.feature_weight else None
        usable = found is not None and accepts_images(found, teacher.spec) and hasattr(found, "block_resolutions")
        self.features = DiscriminatorFeatures(found) if usable and found is not None else None

    def pool_distance(self, fake: Images, target: Images) -> PerSample:
        """|fake - target|^2, plus `feature_weight` times the number of pixel values times the distance in features."""
        error = super().pool_distance(fake, target)
        if self.features is None:
            return error
        return error + self.options.feature_weight * fake[0].numel() * self.features.distance(fake, target)

    def frozen_modules(self) -> list[nn.Module]:
        return [*super().frozen_modules(), *([] if self.features is None else [self.features])]

    def notices(self) -> list[str]:
        if self.features is not None or not self.options.feature_weight:
            return []
        return ["The GAN's file has no discriminator of the teacher's size: target pools are learned in pixels alone."]


class DiscriminatorFeatures(nn.Module):
    """Activations of a frozen StyleGAN2 discriminator, without its last block, whose batch statistics mix the images."""

    def __init__(self, discriminator: nn.Module) -> None:
        super().__init__()
        self.discriminator = discriminator.eval().requires_grad_(False)

    def forward(self, images: Images) -> list[torch.Tensor]:
        """Activations [N, C, H, W] of each convolution of the blocks, in order; differentiable."""
        activations: list[torch.Tensor] = []
        blocks = [getattr(self.discriminator, f"b{res}") for res in self.discriminator.block_resolutions]  # type: ignore[union-attr]
        layers = [getattr(block, name) for block in blocks for name in FEATURE_LAYERS if hasattr(block, name)]
        handles = [layer.register_forward_hook(lambda module, given, out: activations.append(out)) for layer in layers]
        try:
            x, image = None, images
            for block in blocks:
                x, image = block(x, image, force_fp32=True)
        finally:
            for handle in handles:
                handle.remove()
        return activations

    def distance(self, images: Images, targets: Images) -> PerSample:
        """Squared distance of the activations over the energy of the target's, a mean over convolutions; 0 for equal images."""
        with torch.no_grad():
            wanted = self(targets)
        parts = [
            (a - b).square().flatten(1).sum(1) / (b.square().flatten(1).sum(1) + SMALLEST_ENERGY)
            for a, b in zip(self(images), wanted, strict=True)
        ]
        return torch.stack(parts).mean(0)
