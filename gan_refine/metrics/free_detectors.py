"""Detectors that need no file of their own: `teacher`, the activations of the teacher's U-Net, and `pixels`. For any pair."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_refine.errors import MismatchError
from gan_refine.interfaces import Denoiser, ImageSpec, PixelBytes
from gan_refine.metrics.detectors import NetworkDetector, Outputs
from gan_refine.metrics.extra_detectors import projection

TEACHER_FEATURES, MOST_PIXELS = 128, 256  # so that 2,000 images have a covariance of full rank
BLOCKS = "UNetBlock"  # the class of the blocks of EDM's networks, here and in files that are trusted
SIGMA = 0.4  # chosen by measurement, docs/research/diary.md
SEED = 0  # of the one noise that all images get


class TeacherDetector(NetworkDetector):
    """Activations of the blocks of a denoiser's network at noise level SIGMA, averaged over the image.

    All images get the same noise, and no class. More than TEACHER_FEATURES are projected to as many by fixed random signs. A
    network without blocks of EDM's class gives its convolutions instead. Raises MismatchError for a denoiser that has neither.
    """

    batch = 100

    def __init__(self, denoiser: Denoiser) -> None:
        self.layers = _layers(denoiser)
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
        noisy = images_uint8.to(torch.float32) / 127.5 - 1 + self.noise
        pooled: list[Tensor] = []
        hooks = [layer.register_forward_hook(lambda _, __, out: pooled.append(_mean(out))) for layer in self.layers]
        try:
            sigma = torch.full([len(noisy), 1, 1, 1], SIGMA, device=self.device)
            self.network(noisy, sigma, torch.zeros([len(noisy), self.spec.num_classes], device=self.device))
        finally:
            for hook in hooks:
                hook.remove()
        features = torch.cat(pooled, dim=1)
        return Outputs(features if self.projection is None else features @ self.projection, None)


def has_layers(denoiser: Denoiser) -> bool:
    """Whether `TeacherDetector` finds activations in it."""
    return bool(_layers(denoiser))


def _layers(network: nn.Module) -> list[nn.Module]:
    """The blocks of an EDM network; of any other network, its convolutions."""
    blocks = [module for module in network.modules() if BLOCKS in {cls.__name__ for cls in type(module).__mro__}]
    return blocks or [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def _mean(activations: Tensor) -> Tensor:
    return activations.to(torch.float32).mean(dim=(2, 3))


class PixelsDetector(NetworkDetector):
    """The pixels in [-1, 1] themselves, averaged over squares until there are at most MOST_PIXELS."""

    batch = 1000

    def __init__(self, spec: ImageSpec, device: torch.device | str = "cpu") -> None:
        side = spec.resolution
        while side % 2 == 0 and spec.channels * side**2 > MOST_PIXELS:
            side //= 2
        self.factor = spec.resolution // side
        self.takes = f"uint8 images [N, {spec.channels}, {spec.resolution}, {spec.resolution}]"
        super().__init__("pixels", spec, spec.channels * side**2, nn.Identity(), device)

    def accepts(self, spec: ImageSpec) -> bool:
        return (spec.channels, spec.resolution) == (self.spec.channels, self.spec.resolution)

    def _outputs(self, images_uint8: PixelBytes) -> Outputs:
        images = images_uint8.to(torch.float32) / 127.5 - 1
        return Outputs(F.avg_pool2d(images, self.factor).flatten(1), None)
