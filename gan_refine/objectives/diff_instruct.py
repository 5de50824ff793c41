"""Diff-Instruct (arXiv:2305.18455): the generator follows the difference of two scores, its own and the teacher's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gan_refine.config import require
from gan_refine.interfaces import Images, Labels, Loss, Sigma
from gan_refine.noise import LogNormal, add_noise
from gan_refine.objectives.score_model import (
    ScoreModelObjective,
    ScoreOptions,
    denoising_loss,
    residual,
    sample_sigma,
    score_figures,
)

# w(sigma) / sigma^2 of each weighting as the divisor of D_g - D_d, given x, D_d and sigma.
WEIGHTINGS: Mapping[str, Callable[[Images, Images, Sigma], Sigma]] = {
    "sigma2": lambda fake, teacher, sigma: torch.ones_like(sigma),  # w = sigma^2, the authors' released setting
    "dmd": lambda fake, teacher, sigma: residual(fake, teacher),  # w = sigma^2 / |x - D_d|_1, eq. 8 of arXiv:2311.18828
    "score": lambda fake, teacher, sigma: sigma**2,  # w = 1
}


@dataclass(frozen=True)
class DiffInstructOptions(ScoreOptions):
    """`weighting` sigma2 is the authors' released setting, dmd the normalization of arXiv:2311.18828, score a constant weight.

    `joint`: one batch and one pass of the score model give both its loss and D_g.
    """

    weighting: Literal["sigma2", "dmd", "score"] = "sigma2"
    joint: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        shared = self.score_steps == 1 and self.score_ema == 0 and self.law() == LogNormal()
        allowed = "false, or leave out the other options of sigma, score_steps and score_ema: both steps share them"
        require("joint", self.joint, shared or not self.joint, allowed)


class DiffInstruct(ScoreModelObjective):
    """Gradient w(sigma) (s_g - s_d) at the generator's images, eq. 3.2; nothing is back-propagated through a denoiser.

    With the defaults, the authors' released settings: w = sigma^2, ln sigma ~ N(-1.2, 1.2^2), one step of the score model.
    """

    Options: ClassVar[type[ScoreOptions]] = DiffInstructOptions
    options: DiffInstructOptions

    @property
    def joint(self) -> bool:  # type: ignore[override]
        return self.options.joint

    def generator_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """A surrogate loss whose gradient at x is w(sigma) (s_g - s_d) = w(sigma) (D_g - D_d) / sigma^2 (eq. 3.2)."""
        with torch.no_grad():
            sigma = sample_sigma(self.law, self.teacher, fake, rng)
            noisy = add_noise(fake, sigma, rng)
            teacher, score = self.denoise(noisy, sigma, labels)
        return self._follow(fake, sigma, teacher, score)

    def joint_losses(self, fake: Images, labels: Labels, rng: torch.Generator) -> tuple[Loss, Loss]:
        """Eq. 3.1 and eq. 3.2 with the same noisy images: D_g is that of before the score model's step."""
        clean = fake.detach()
        sigma = sample_sigma(self.law, self.teacher, clean, rng)
        noisy = add_noise(clean, sigma, rng)
        score = self.score_model(noisy, sigma, labels)
        with torch.no_grad():
            teacher = self.teacher(noisy, sigma, labels)
        auxiliary = Loss(denoising_loss(score, clean, sigma), sigma.flatten(), {})
        return auxiliary, self._follow(fake, sigma, teacher, score.detach())

    def _follow(self, fake: Images, sigma: Sigma, teacher: Images, score: Images) -> Loss:
        with torch.no_grad():
            gradient = (score - teacher) / WEIGHTINGS[self.options.weighting](fake, teacher, sigma)
        per_sample = (gradient * fake).flatten(1).sum(1)
        return Loss(per_sample, sigma.flatten(), score_figures(fake, sigma, teacher, score))


@dataclass(frozen=True)
class DiffInstructDmdOptions(DiffInstructOptions):
    """Diff-Instruct's options with other defaults."""

    weighting: Literal["sigma2", "dmd", "score"] = "dmd"
    sigma: Literal["lognormal", "karras"] = "karras"
    score_steps: int = 5


class DiffInstructDmd(DiffInstruct):
    """Gradient (D_g - D_d) / |x - D_d|_1, eq. 8 of DMD (arXiv:2311.18828), sigma on the Karras grid from 2 % to 98 %.

    Five steps of the score model for each step of the generator, as in DMD2 (arXiv:2405.14867), section 4.2.
    """

    Options = DiffInstructDmdOptions
