"""The Frechet distance of a stream of images to a reference, as a Metric."""

import torch

from gan_refine.errors import MismatchError
from gan_refine.interfaces import Images, PixelBytes
from gan_refine.metrics.detectors import Detector
from gan_refine.metrics.frechet import frechet_distance
from gan_refine.metrics.moments import Moments
from gan_refine.metrics.references import Reference


def to_uint8(images: Images) -> PixelBytes:
    """Images in [-1, 1] as bytes by the convention of StyleGAN: x * 127.5 + 128, clamped and truncated."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)


class FrechetMetric:
    """Frechet distance of exactly `num_images` images to `reference` in the features of `detector`.

    It is called `fid` only for Inception features, else `fd`: `fd10k-fashion16`. Both covariances divide by
    N - ddof with the ddof of the reference, 1 where it records none.
    """

    def __init__(self, detector: Detector, reference: Reference, num_images: int) -> None:
        reference.check(detector)
        if num_images < 2:
            raise MismatchError(f"a Frechet distance needs at least 2 images, got {num_images}")
        self.detector = detector
        self.reference = reference
        self.num_images = num_images
        self.name = metric_name(detector.name, num_images)
        self._moments = Moments(detector.num_features)

    def update(self, images_uint8: PixelBytes) -> None:
        """Takes in images; those beyond `num_images` (the rest of a last batch) are left out."""
        wanted = images_uint8[: self.num_images - self._moments.count]
        if len(wanted):
            self._moments.update(self.detector(wanted))

    def result(self) -> dict[str, float]:
        """{name: distance}. Raises MismatchError before `num_images` images have come."""
        if self._moments.count < self.num_images:
            raise MismatchError(f"{self.name} needs {self.num_images} images and has seen {self._moments.count}")
        ddof = 1 if self.reference.ddof is None else self.reference.ddof
        covariance = self._moments.covariance(ddof)
        distance = frechet_distance(self._moments.mean, covariance, self.reference.mean, self.reference.covariance)
        return {self.name: distance}


def metric_name(detector_name: str, num_images: int) -> str:
    """`fd10k-fashion16`; FID is the name of the distance in Inception features alone."""
    kind = "fid" if detector_name.startswith("inception") else "fd"
    count = f"{num_images // 1000}k" if num_images % 1000 == 0 else str(num_images)
    return f"{kind}{count}-{detector_name}"
