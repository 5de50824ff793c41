"""Diff-Instruct (arXiv:2305.18455): follow the difference of two scores, the generator's own and the teacher's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from gan_refine.config import require
from gan_refine.interfaces import Denoiser, HelperGroup, Images, Labels, Sigma, Terms
from gan_refine.noise import Karras, LogNormal, SigmaLaw, add_noise
from gan_refine.objectives.score_model import denoising_loss


@dataclass(frozen=True)
class DiffInstructOptions:
    """`weight` sigma2 is what the authors released, dmd the per-sample normalisation of arXiv:2311.18828, eq. 8."""

    weight: Literal["sigma2", "dmd"] = "sigma2"
    sigma: Literal["lognormal", "karras"] = "lognormal"  # noise law of the generator's step
    sigma_mean: float = -1.2  # of ln sigma, for lognormal; the score model always trains with EDM's -1.2 and 1.2
    sigma_std: float = 1.2
    score_steps: int = 1  # steps of the score model for each step of the generator

    def __post_init__(self) -> None:
        require("sigma_std", self.sigma_std, self.sigma_std > 0, "a positive number")
        require("score_steps", self.score_steps, self.score_steps > 0, "a positive number")

    def law(self) -> SigmaLaw:
        return LogNormal(self.sigma_mean, self.sigma_std) if self.sigma == "lognormal" else Karras()


class DiffInstruct(nn.Module):
    """Gradient w(sigma) (D_g - D_d) at the generator's images, eq. 3.2; nothing is back-propagated through a denoiser.

    D_d is the frozen teacher, D_g the score model, which starts as its copy: then the gradient is exactly zero.
    """

    Options = DiffInstructOptions

    def __init__(self, teacher: Denoiser, options: DiffInstructOptions | None = None) -> None:
        super().__init__()
        self.options = options or DiffInstructOptions()
        self.teacher = teacher
        self.score_model = teacher.trainable_copy()
        self.helper_steps = self.options.score_steps
        self._generator_law = self.options.law()
        self._score_law = LogNormal()

    def prepare(self, rng: torch.Generator) -> Iterator[tuple[int, int]]:
        """Nothing to make beforehand."""
        yield from ()

    def helper_groups(self) -> list[HelperGroup]:
        return [HelperGroup(list(self.score_model.parameters()))]

    def helper_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms:
        """Denoising score matching of the score model on detached fakes, eq. 3.1."""
        sigma = self._sample(self._score_law, fake, rng)
        denoised = self.score_model(add_noise(fake, sigma, rng), sigma, labels)
        return Terms(denoising_loss(denoised, fake, sigma), sigma.flatten(), {})

    def generator_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms:
        """A loss whose gradient at each fake is w(sigma) (D_g - D_d), and the run's health as logs.

        `ratio` is |D_g - D_d|_1 / |x - D_d|_1; `nats` is |D_g - D_d|^2 / sigma^2, whose integral over ln sigma is the KL
        divergence from generator to teacher; `score_loss` and `teacher_loss` are both networks' errors on these fakes.
        """
        clean = fake.detach()
        with torch.no_grad():
            sigma = self._sample(self._generator_law, clean, rng)
            noisy = add_noise(clean, sigma, rng)
            denoised_teacher = self.teacher(noisy, sigma, labels)
            denoised_score = self.score_model(noisy, sigma, labels)
            push = denoised_score - denoised_teacher
            residual = (clean - denoised_teacher).abs().flatten(1).mean(1)
            gradient = push if self.options.weight == "sigma2" else push / residual.reshape(-1, 1, 1, 1)
            logs = {
                "ratio": push.abs().flatten(1).mean(1) / residual,
                "nats": (push / sigma).square().flatten(1).sum(1),
                "score_loss": denoising_loss(denoised_score, clean, sigma),
                "teacher_loss": denoising_loss(denoised_teacher, clean, sigma),
            }
        return Terms((gradient * fake).flatten(1).sum(1), sigma.flatten(), logs)

    def _sample(self, law: SigmaLaw, like: Images, rng: torch.Generator) -> Sigma:
        low, high = self.teacher.sigma_range
        return law.sample(len(like), rng, like.device).clamp(low, high)
