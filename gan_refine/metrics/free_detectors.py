"""Detectors that need no file of their own: `teacher`, the activations of the teacher's U-Net, and `pixels`. For any pair."""

import torch
from torch import Tensor, nn

from gan_refine.errors import MismatchError
from gan_refine.features import activation_layers, pooled_pixels, pooling, projection, teacher_activations
from gan_refine.interfaces import Denoiser, ImageSpec, PixelBytes
from gan_refine.metrics.detectors import NetworkDetector, Outputs
from gan_refine.pixels import from_uint8

TEACHER_FEATURES = 128  # so that 2,000 images have a covariance of full rank
SIGMA = 0.4  # chosen by measurement, docs/research/diary.md
SEED = 0  # of the one noise that all images get


class TeacherDetector(NetworkDetector):
    """Activations of the blocks of a denoiser's network at noise level SIGMA, averaged over the image.

    All images get the same noise, and no class. More than TEACHER_FEATURES are projected to as many by fixed random signs. A
    network without blocks of EDM's class gives its convolutions instead. Raises MismatchError for a denoiser that has neither.
    """

    batch = 100

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.layers = denoiser, activation_layers(denoiser)
        if not self.layers:
            raise MismatchError("the teacher's network has no convolutions; choose --detector=pixels")
        spec = denoiser.spec
        self.takes = f"uint8 images [N, {spec.channels}, {spec.resolution}, {spec.resolution}]"
        self.projection: Tensor | None = None
        shape = [1, spec.channels, spec.resolution, spec.resolution]
        rng = torch.Generator().manual_seed(SEED)
        self.noise = SIGMA * torch.randn(shape, generator=rng).to(next(denoiser.parameters()).device)
        super().__init__("teacher", spec, 0, denoiser, next(denoiser.parameters()).device)
        found = self.outputs(torch.zeros(shape, dtype=torch.uint8)).features.shape[1]
        self.num_features = min(found, TEACHER_FEATURES)
        if found > TEACHER_FEATURES:
            self.projection = projection(found, TEACHER_FEATURES).to(self.device)

    def accepts(self, spec: ImageSpec) -> bool:
        return (spec.channels, spec.resolution) == (self.spec.channels, self.spec.resolution)

    def _outputs(self, images_uint8: PixelBytes) -> Outputs:
        noisy = from_uint8(images_uint8) + self.noise
        features = teacher_activations(self.denoiser, self.layers, noisy, SIGMA)
        return Outputs(features if self.projection is None else features @ self.projection, None)


def has_layers(denoiser: Denoiser) -> bool:
    """Whether `TeacherDetector` finds activations in it."""
    return bool(activation_layers(denoiser))


class PixelsDetector(NetworkDetector):
    """The pixels in [-1, 1] themselves, averaged over squares until there are at most MOST_PIXELS."""

    batch = 1000

    def __init__(self, spec: ImageSpec, device: torch.device | str = "cpu") -> None:
        self.takes = f"uint8 images [N, {spec.channels}, {spec.resolution}, {spec.resolution}]"
        super().__init__("pixels", spec, spec.channels * (spec.resolution // pooling(spec)) ** 2, nn.Identity(), device)

    def accepts(self, spec: ImageSpec) -> bool:
        return (spec.channels, spec.resolution) == (self.spec.channels, self.spec.resolution)

    def _outputs(self, images_uint8: PixelBytes) -> Outputs:
        return Outputs(pooled_pixels(from_uint8(images_uint8)), None)
