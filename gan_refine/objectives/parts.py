"""The parts that objectives are composed of: what is seen of a batch at one noise level, weights, and forms of the gradient."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch

from gan_refine.config import require
from gan_refine.interfaces import Images, PerSample, Sigma
from gan_refine.noise import Karras, LogNormal, SigmaLaw
from gan_refine.objectives.score_model import denoising_loss

SMALLEST_RESIDUAL = 1e-5  # a teacher that is right to the last digit would divide by zero; SiD's limit too


@dataclass(frozen=True)
class LawOptions:
    """The law of sigma in the generator's step: lognormal (EDM's by default) or a part of the sampler's grid."""

    sigma: Literal["lognormal", "karras"] = "lognormal"
    sigma_mean: float = -1.2  # of ln sigma, for lognormal; the score model always trains with EDM's -1.2 and 1.2
    sigma_std: float = 1.2
    sigma_from: float = 0.02  # shares of the grid, for karras, counted from the smallest sigma
    sigma_to: float = 0.98

    def __post_init__(self) -> None:
        require("sigma_std", self.sigma_std, self.sigma_std > 0, "a positive number")
        require("sigma_from", self.sigma_from, 0 <= self.sigma_from < 1, "a share of at least 0 and below 1")
        require("sigma_to", self.sigma_to, self.sigma_from < self.sigma_to <= 1, "a share above sigma_from, at most 1")

    def law(self) -> SigmaLaw:
        if self.sigma == "lognormal":
            return LogNormal(self.sigma_mean, self.sigma_std)
        return Karras(lower=self.sigma_from, upper=self.sigma_to)


@dataclass(frozen=True)
class Look:
    """A batch at random noise levels: the images (with their graph), sigma, D_d of the noisy images and, if there is one, D_g."""

    images: Images
    sigma: Sigma
    teacher: Images
    score: Images | None = None

    @property
    def residual(self) -> Sigma:
        """|x - D_d|_1, a constant for the gradient."""
        mean = (self.images.detach() - self.teacher.detach()).abs().flatten(1).mean(1)
        return mean.clamp(min=SMALLEST_RESIDUAL).reshape(-1, 1, 1, 1)

    def push(self) -> Images:
        """D_g - D_d, which is sigma^2 (s_g - s_d)."""
        assert self.score is not None, "this form of the gradient has a score model"
        return self.score - self.teacher

    def figures(self) -> dict[str, PerSample]:
        """The run's health; empty without a score model.

        `ratio` is |D_g - D_d|_1 / |x - D_d|_1; `nats` is |D_g - D_d|^2 / sigma^2, whose integral over ln sigma is the KL
        divergence from generator to teacher; `score_loss` and `teacher_loss` are both networks' errors on these fakes.
        """
        if self.score is None:
            return {}
        with torch.no_grad():
            clean, push = self.images.detach(), self.push()
            return {
                "ratio": push.abs().flatten(1).mean(1) / self.residual.flatten(),
                "nats": (push / self.sigma).square().flatten(1).sum(1),
                "score_loss": denoising_loss(self.score, clean, self.sigma),
                "teacher_loss": denoising_loss(self.teacher, clean, self.sigma),
            }


# Weights are given as what divides D_g - D_d: the weight of s_g - s_d is sigma^2 over it.
Divisor = Callable[[Look], Sigma]


def released(look: Look) -> Sigma:
    """w = sigma^2: D_g - D_d as it is, what Diff-Instruct's authors released."""
    return torch.ones_like(look.sigma)


def score_units(look: Look) -> Sigma:
    """w = 1: the difference of the scores, eq. 3.2 of arXiv:2305.18455 with a constant weight."""
    return look.sigma**2


def per_sample(look: Look) -> Sigma:
    """w = sigma^2 / |x - D_d|_1 for each sample, eq. 8 of arXiv:2311.18828."""
    return look.residual


def pseudo_huber(c: float) -> Divisor:
    """w = sigma^2 / sqrt(|D_d - D_g|^2 + d c^2) with d pixels: the derivative of a pseudo-Huber distance of arXiv:2410.16794."""

    def divisor(look: Look) -> Sigma:
        push = look.push().flatten(1)
        return (push.square().sum(1) + push.shape[1] * c**2).sqrt().reshape(-1, 1, 1, 1)

    return divisor


@runtime_checkable
class Form(Protocol):
    """How the generator's gradient follows from a look; `through_networks` asks for a look with the denoisers' graphs."""

    @property
    def through_networks(self) -> bool: ...

    def loss(self, look: Look, divisor: Sigma) -> PerSample: ...


class Difference:
    """Gradient (D_g - D_d) / divisor at each image, eq. 3.2 of arXiv:2305.18455; the loss is a surrogate with that gradient."""

    through_networks = False

    def loss(self, look: Look, divisor: Sigma) -> PerSample:
        return ((look.push() / divisor) * look.images).flatten(1).sum(1)


class Dirac:
    """Gradient (x - D_d) / divisor: the score model of a generator without spread is x itself, Cor. 3.4 of arXiv:2305.18455."""

    through_networks = False

    def loss(self, look: Look, divisor: Sigma) -> PerSample:
        gradient = (look.images.detach() - look.teacher) / divisor
        return (gradient * look.images).flatten(1).sum(1)


@dataclass(frozen=True)
class ScoreIdentity:
    """Loss (D_d - D_g) . [(D_d - x) - alpha (D_d - D_g)] / divisor, Algorithm 1 of arXiv:2404.04057.

    Its gradient runs through x_t into both networks, whose weights are constants.
    """

    alpha: float
    through_networks: bool = True

    def loss(self, look: Look, divisor: Sigma) -> PerSample:
        gap = -look.push()
        return (gap * ((look.teacher - look.images) - self.alpha * gap) / divisor).flatten(1).sum(1)


def finite(name: str, value: float) -> None:
    """Raises OptionError unless the option is a finite number."""
    require(name, value, math.isfinite(value), "a finite number")
