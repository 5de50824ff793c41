"""Score identity distillation (arXiv:2404.04057), score implicit matching (arXiv:2410.16794): gradients through both networks."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gan_refine.config import require
from gan_refine.interfaces import Images, Labels, Loss, PerSample
from gan_refine.noise import add_noise
from gan_refine.objectives.score_model import ScoreModelObjective, ScoreOptions, residual, sample_sigma, score_figures


@dataclass(frozen=True)
class SidOptions(ScoreOptions):
    """`alpha` 1 leaves out the squared difference of the denoisers; 1.2 subtracts a fifth of it."""

    sigma: Literal["lognormal", "karras"] = "karras"
    sigma_from: float = 0.0
    sigma_to: float = 0.8  # of the grid: up to sigma 24.4
    alpha: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require("alpha", self.alpha, math.isfinite(self.alpha), "a finite number")


class Sid(ScoreModelObjective):
    """Loss (D_d - D_g) . [(D_d - x) - alpha (D_d - D_g)] / |x - D_d|_1, Algorithm 1 of arXiv:2404.04057.

    The divisor is a constant; everything else is differentiated, through x_t, with the weights of both networks fixed.
    """

    Options: ClassVar[type[ScoreOptions]] = SidOptions
    options: SidOptions

    def generator_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        sigma = sample_sigma(self.law, self.teacher, fake, rng)
        teacher, score = self.denoise(add_noise(fake, sigma, rng), sigma, labels)
        per_sample = identity_loss(fake, teacher, score, self.options.alpha, residual(fake, teacher))
        return Loss(per_sample, sigma.flatten(), score_figures(fake, sigma, teacher, score))


@dataclass(frozen=True)
class SimOptions(ScoreOptions):
    """`huber` is c in sqrt(|D_d - D_g|^2 + d c^2) with d pixel values; the default is that of arXiv:2310.14189, section 3.3."""

    sigma: Literal["lognormal", "karras"] = "karras"
    sigma_from: float = 0.0
    sigma_to: float = 0.8
    huber: float = 0.00054

    def __post_init__(self) -> None:
        super().__post_init__()
        require("huber", self.huber, 0 < self.huber < math.inf, "a positive number")


class Sim(ScoreModelObjective):
    """Loss (D_d - D_g) . (D_g - x) / sqrt(|D_d - D_g|^2 + d c^2), Theorem 3.1 of arXiv:2410.16794.

    The divisor is the derivative of a pseudo-Huber distance between the denoisers (the paper's is between scores); by that
    theorem it is differentiated too.
    """

    Options = SimOptions
    options: SimOptions

    def generator_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        sigma = sample_sigma(self.law, self.teacher, fake, rng)
        teacher, score = self.denoise(add_noise(fake, sigma, rng), sigma, labels)
        push = (score - teacher).flatten(1)
        huber = (push.square().sum(1) + push.shape[1] * self.options.huber**2).sqrt().reshape(-1, 1, 1, 1)
        per_sample = identity_loss(fake, teacher, score, 1.0, huber)
        return Loss(per_sample, sigma.flatten(), score_figures(fake, sigma, teacher, score))


def identity_loss(fake: Images, teacher: Images, score: Images, alpha: float, divisor: torch.Tensor) -> PerSample:
    """(D_d - D_g) . [(D_d - x) - alpha (D_d - D_g)] / divisor for each sample."""
    gap = teacher - score
    return (gap * ((teacher - fake) - alpha * gap) / divisor).flatten(1).sum(1)
