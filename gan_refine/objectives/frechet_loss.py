"""Frechet distances to the teacher's samples as losses: the moments of the generator's images come to the teacher's."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from gan_refine.efficientnet import WIDTH, ImageNetFeatures
from gan_refine.features import Vectors, activation_layers, pooled_pixels, projection, teacher_activations
from gan_refine.foundation import distributed
from gan_refine.interfaces import Denoiser, Images, PixelBytes
from gan_refine.pixels import from_uint8

FEATURE_SIGMA = 0.3  # noise level at which the teacher's activations are taken; the detector `teacher` has another
TEACHER_FEATURES = 192
REFERENCE_BATCH = 250
IMAGENET_FEATURES = 128
IMAGENET_SAMPLES = 8192  # at most, of the teacher, that give the directions and the moments of these features
SMALLEST_SIDE, LARGEST_SIDE = 64, 224  # pixels of the images that EfficientNet-Lite1 sees
SMALLEST_EIGENVALUE = 1e-7  # of the largest: directions in which the images do not vary are left alone

Matrix = Float64[Tensor, "d d"]
Vector = Float64[Tensor, " d"]


class FrechetLoss(nn.Module, ABC):
    """A squared Frechet distance: of the generator's newest images, the window, to samples of the teacher."""

    mean: Tensor  # of the samples' features; buffers, so that checkpoints hold them
    covariance: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("mean", "covariance"):
            self.register_buffer(name, torch.zeros([0], dtype=torch.float64))
        self.register_buffer("window", torch.zeros([0, 0]))
        self._root: Matrix | None = None  # of the covariance
        self._transport: tuple[Vector, Matrix] | None = None  # mean and matrix, of the present window

    @abstractmethod
    def features(self, images: Images, rng: torch.Generator) -> Vectors:
        """The vectors whose moments are compared; differentiable."""

    @torch.no_grad()
    def set_reference(self, samples: PixelBytes, rng: torch.Generator) -> None:
        """Keeps the moments of the samples' features."""
        found = [self.features(from_uint8(part), rng) for part in samples.split(REFERENCE_BATCH)]
        self.mean, self.covariance = moments(torch.cat(found))
        self._root = None

    def push(self, features: Vectors, length: int) -> None:
        """Adds features of one global batch, this process's share of which is given; the oldest beyond `length` leave.

        The reference's mean takes the place of vectors that are not finite, whose step is skipped.
        """
        new = distributed.gather_across(features)
        stand_in = self.mean.to(new.dtype) if len(self.mean) else torch.zeros_like(new[0])
        new = torch.where(new.isfinite().all(dim=1, keepdim=True), new, stand_in)
        self.window = torch.cat([self.window.reshape(-1, new.shape[1]), new])[-length:]
        self._transport = None

    def gradient(self, features: Vectors) -> Vectors:
        """f - T(f), T the optimal transport from the window's Gaussian to the reference's.

        It is n / 2 times the gradient of the squared distance at each of n vectors with the window's moments.
        """
        if self._root is None:
            self._root = power(self.covariance, 0.5)
        if self._transport is None:
            mean, covariance = moments(self.window)
            self._transport = mean, transport(covariance, self._root)
        mean, matrix = self._transport
        centered = features.to(torch.float64) - mean
        return (centered - centered @ matrix + mean - self.mean).to(features.dtype)


class PixelFrechetLoss(FrechetLoss):
    """In the pixels, averaged over squares until there are at most 256."""

    def features(self, images: Images, rng: torch.Generator) -> Vectors:
        return pooled_pixels(images)


class ActivationFrechetLoss(FrechetLoss):
    """In activations of the teacher's network at one noise level, averaged over the image, in units of their deviations.

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


class ImageNetFrechetLoss(FrechetLoss):
    """In the features of EfficientNet-Lite1, along the principal directions of the teacher's samples; before these are known, all.

    It takes grey and RGB images. Raises OptionError if the network's packages are not installed.
    """

    directions: Tensor  # [1280, IMAGENET_FEATURES]

    def __init__(self, resolution: int) -> None:
        super().__init__()
        side = min(max(resolution, SMALLEST_SIDE), LARGEST_SIDE)
        self.network = ImageNetFeatures(side, "the loss in ImageNet features (imagenet=0 leaves it out)")
        self.register_buffer("directions", torch.zeros([WIDTH, 0]))

    def features(self, images: Images, rng: torch.Generator) -> Vectors:
        found = self.network(images)
        return found @ self.directions if len(self.mean) else found

    @torch.no_grad()
    def set_reference(self, samples: PixelBytes, rng: torch.Generator) -> None:
        parts = samples[:IMAGENET_SAMPLES].split(REFERENCE_BATCH)
        found = torch.cat([self.network(from_uint8(part)) for part in parts])
        _, covariance = moments(found)
        own = torch.linalg.eigh(covariance).eigenvectors[:, -IMAGENET_FEATURES:].to(found.dtype)
        self.directions = distributed.gather_across(own[None])[0]  # those of one process on all
        self.mean, self.covariance = moments(found @ self.directions)
        self.window, self._root = self.window @ self.directions if len(self.window) else self.window, None


def moments(vectors: Vectors) -> tuple[Vector, Matrix]:
    """Mean and covariance in float64. torch.cov would wait for the device."""
    vectors = vectors.to(torch.float64)
    mean = vectors.mean(dim=0)
    return mean, (vectors - mean).T @ (vectors - mean) / (len(vectors) - 1)


def transport(source: Matrix, root: Matrix) -> Matrix:
    """The optimal transport between centered Gaussians, R (R C R)^(-1/2) R, from covariance C to R^2."""
    return root @ power(root @ source @ root, -0.5) @ root


def power(matrix: Matrix, exponent: float) -> Matrix:
    """Of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=values[-1] * SMALLEST_EIGENVALUE)
    return (vectors * values**exponent) @ vectors.T
