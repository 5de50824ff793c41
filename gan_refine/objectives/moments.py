"""Frechet distances to the teacher's samples as a gradient: the moments of the generator's images are drawn to the teacher's."""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from gan_refine.features import Vectors, activation_layers, pooled_pixels, projection, teacher_activations
from gan_refine.foundation import distributed
from gan_refine.interfaces import Denoiser, Images, PixelBytes

FEATURE_SIGMA = 0.3  # noise level at which the teacher's activations are taken; the detector `teacher` has another
TEACHER_FEATURES = 192
REFERENCE_BATCH = 250
SMALLEST_EIGENVALUE = 1e-7  # of the largest: directions in which the images do not vary are left alone

Matrix = Float64[Tensor, "d d"]
Vector = Float64[Tensor, " d"]


class Space(nn.Module):
    """Pixels of images, the moments of the teacher's samples in them, and a window of the generator's newest images."""

    mean: Tensor  # buffers, so that checkpoints hold them
    covariance: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "covariance"):
            self.register_buffer(name, torch.zeros([0], dtype=torch.float64))
        self.register_buffer("window", torch.zeros([0, 0]))
        self._transport: tuple[Vector, Matrix] | None = None  # mean and matrix, of the present window

    def features(self, images: Images, rng: torch.Generator) -> Vectors:
        """The vectors whose moments are compared; differentiable."""
        return pooled_pixels(images)

    @torch.no_grad()
    def set_reference(self, samples: PixelBytes, rng: torch.Generator) -> None:
        """Keeps the moments of the samples' features."""
        found = [self.features(from_bytes(part), rng) for part in samples.split(REFERENCE_BATCH)]
        self.mean, self.covariance = moments(torch.cat(found))

    def push(self, features: Vectors, length: int) -> None:
        """Adds features of one global batch, this process's share of which is given; the oldest beyond `length` leave.

        The reference's mean takes the place of vectors that are not finite, whose step is skipped.
        """
        new = distributed.gather_across(features)
        new = torch.where(new.isfinite().all(dim=1, keepdim=True), new, self.mean.to(new.dtype))
        self.window = torch.cat([self.window.reshape(-1, new.shape[1]), new])[-length:]
        self._transport = None

    def pull(self, features: Vectors) -> Vectors:
        """f - T(f), T the optimal transport from the window's Gaussian to the reference's.

        It is n / 2 times the gradient of their squared Frechet distance at each of n vectors with these moments.
        """
        if self._transport is None:
            mean, covariance = moments(self.window)
            self._transport = mean, transport(covariance, self.covariance)
        mean, matrix = self._transport
        centered = features.to(torch.float64) - mean
        return (centered - centered @ matrix + mean - self.mean).to(features.dtype)


class ActivationSpace(Space):
    """Activations of the teacher's network at one noise level, averaged over the image, in units of their deviations.

    More than TEACHER_FEATURES are projected to as many by fixed random signs.
    """

    deviations: Tensor

    def __init__(self, teacher: Denoiser) -> None:
        super().__init__()
        self.teacher = teacher
        self.register_buffer("deviations", torch.zeros([0]))
        self._projection: Tensor | None = None

    def features(self, images: Images, rng: torch.Generator) -> Vectors:
        noise = torch.randn(images.shape, generator=rng, device=rng.device).to(images.device)
        layers = activation_layers(self.teacher)  # found anew: a copy of this may share the teacher
        found = teacher_activations(self.teacher, layers, images + FEATURE_SIGMA * noise, FEATURE_SIGMA)
        if not len(self.deviations):
            self.deviations = found.detach().std(dim=0) + 1e-3 * found.detach().std()
        found = found / self.deviations
        if found.shape[1] <= TEACHER_FEATURES:
            return found
        if self._projection is None:
            self._projection = projection(found.shape[1], TEACHER_FEATURES).to(found.device)
        return found @ self._projection


def as_bytes(images: Images) -> PixelBytes:
    """Images in [-1, 1] as users see them: the sampler's residue on flat ground is no part of that."""
    return (images * 127.5 + 128).clamp(0, 255).to(torch.uint8).cpu()


def from_bytes(images: PixelBytes) -> Images:
    """Bytes as images in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def moments(vectors: Vectors) -> tuple[Vector, Matrix]:
    """Mean and covariance in float64."""
    centered = vectors.to(torch.float64)
    mean = centered.mean(dim=0)
    centered = centered - mean
    return mean, centered.T @ centered / (len(vectors) - 1)


def transport(source: Matrix, target: Matrix) -> Matrix:
    """The matrix of the optimal transport between centered Gaussians: A^(1/2) (A^(1/2) C A^(1/2))^(-1/2) A^(1/2), C to A."""
    root = _power(target, 0.5)
    return root @ _power(root @ source @ root, -0.5) @ root


def _power(matrix: Matrix, exponent: float) -> Matrix:
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=values[-1] * SMALLEST_EIGENVALUE)
    return (vectors * values**exponent) @ vectors.T
