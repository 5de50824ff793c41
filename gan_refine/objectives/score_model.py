"""The score model: a copy of the teacher that learns to denoise the generator's own images, and objectives that have one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from gan_refine.config import MOST_IMAGES, Range, require, require_ranges
from gan_refine.ema import WeightAverage
from gan_refine.interfaces import Denoiser, Images, Labels, Loss, Objective, ParameterGroup, PerSample, Sigma
from gan_refine.noise import Karras, LogNormal, SigmaDistribution, add_noise, edm_weight
from gan_refine.objectives.gan_file import GanFile

SMALLEST_RESIDUAL = 1e-5  # a teacher that is exact would divide by zero; SiD's limit too


@dataclass(frozen=True)
class SigmaOptions:
    """The distribution of sigma in the generator's step: lognormal (EDM's by default), or a part of the Karras grid."""

    sigma: Literal["lognormal", "karras"] = "lognormal"
    sigma_mean: float = -1.2  # of ln sigma, for lognormal; the score model always trains with EDM's -1.2 and 1.2
    sigma_std: float = 1.2
    sigma_from: float = 0.02  # shares of the grid, for karras, counted from the smallest sigma
    sigma_to: float = 0.98

    def __post_init__(self) -> None:
        require_ranges(self, {"sigma_mean": Range(-20, 20), "sigma_std": Range(0, 20, above=True)})
        require("sigma_from", self.sigma_from, 0 <= self.sigma_from < 1, "a share of at least 0 and below 1")
        require("sigma_to", self.sigma_to, self.sigma_from < self.sigma_to <= 1, "a share above sigma_from, at most 1")

    def law(self) -> SigmaDistribution:
        """The distribution that these options describe."""
        if self.sigma == "lognormal":
            return LogNormal(self.sigma_mean, self.sigma_std)
        return Karras(lower=self.sigma_from, upper=self.sigma_to)


@dataclass(frozen=True)
class ScoreOptions(SigmaOptions):
    """The generator's distribution of sigma, and how the score model is trained."""

    score_steps: int = 1  # steps of the score model for each step of the generator
    score_ema: int = 0  # half-life in images of the weight average that the generator's step uses; 0 = no average

    def __post_init__(self) -> None:
        super().__post_init__()
        require_ranges(self, {"score_steps": Range(1, 10_000), "score_ema": Range(0, MOST_IMAGES)})


class ScoreModelObjective(Objective):
    """An objective with a score model D_g, which starts as a copy of the teacher D_d: every gradient is then exactly zero."""

    Options: ClassVar[type[ScoreOptions]]

    def __init__(self, teacher: Denoiser, options: ScoreOptions | None = None, gan: GanFile | None = None) -> None:
        super().__init__()
        self.options = options or self.Options()
        self.law = self.options.law()
        self.auxiliary_steps = self.options.score_steps
        self.teacher = teacher
        self.score_model = teacher.trainable_copy()
        self.average = ScoreModelAverage(self.score_model, self.options.score_ema) if self.options.score_ema else None

    def auxiliary_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup(list(self.score_model.parameters()))]

    def auxiliary_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """Denoising score matching of the score model on detached fakes, eq. 3.1 of arXiv:2305.18455."""
        sigma = sample_sigma(LogNormal(), self.teacher, fake, rng)
        denoised = self.score_model(add_noise(fake, sigma, rng), sigma, labels)
        return Loss(denoising_loss(denoised, fake, sigma), sigma.flatten(), {})

    def auxiliary_stepped(self, images: int) -> None:
        if self.average is not None:
            self.average.update(self.score_model, images)

    def frozen_modules(self) -> list[nn.Module]:
        return [self.teacher]

    def denoise(self, noisy: Images, sigma: Sigma, labels: Labels) -> tuple[Images, Images]:
        """D_d and D_g of the same noisy images. Gradients flow through both networks to `noisy`, but not to their weights."""
        score_model = self.score_model if self.average is None else self.average.module
        # A view each: gradients of equal networks then meet as two whole sums, which cancel to the last bit.
        teacher = self.teacher(noisy.view_as(noisy), sigma, labels)
        with frozen(score_model):
            return teacher, score_model(noisy.view_as(noisy), sigma, labels)


class ScoreModelAverage(nn.Module):
    """An exponential moving average of the score model's weights, with a half-life in images that it learned from.

    The half-life is at most a fifth of all images so far, so that the teacher that it started from is soon forgotten.
    """

    seen: torch.Tensor

    def __init__(self, score_model: Denoiser, halflife_images: int) -> None:
        super().__init__()
        self._average = WeightAverage(score_model, halflife_images, rampup_ratio=0.2)
        self.module = self._average.module  # registered: a checkpoint of the objective holds it
        self.register_buffer("seen", torch.zeros([], dtype=torch.int64))

    def _apply(self, *args, **kwargs) -> "ScoreModelAverage":
        seen = self.seen
        super()._apply(*args, **kwargs)
        self.seen = seen  # on the CPU, where reading it waits for nothing
        return self

    def update(self, score_model: Denoiser, images: int) -> None:
        """Moves the average after a step of the score model that learned from `images` images."""
        self.seen += images
        self._average.update(score_model, int(self.seen.numpy()), images)


def sample_sigma(law: SigmaDistribution, teacher: Denoiser, like: Images, rng: torch.Generator) -> Sigma:
    """A noise level for each image, within the range of the teacher."""
    low, high = teacher.sigma_range
    return law.sample(len(like), rng, like.device).clamp(low, high)


def denoising_loss(denoised: Images, clean: Images, sigma: Sigma) -> PerSample:
    """EDM's weighted squared error, a mean over pixel values for each sample (eq. 2 and Table 1 of arXiv:2206.00364)."""
    error = (denoised - clean).square().flatten(1).mean(1)
    return edm_weight(sigma, sigma_data=0.5).flatten() * error


def residual(fake: Images, teacher: Images) -> Sigma:
    """|x - D_d|_1, the mean over pixel values for each sample, as a constant for the gradient (arXiv:2311.18828, eq. 8)."""
    mean = (fake.detach() - teacher.detach()).abs().flatten(1).mean(1)
    return mean.clamp(min=SMALLEST_RESIDUAL).reshape(-1, 1, 1, 1)


@torch.no_grad()
def score_figures(fake: Images, sigma: Sigma, teacher: Images, score: Images) -> dict[str, PerSample]:
    """The health of a run, for each sample.

    `ratio` is |D_g - D_d|_1 / |x - D_d|_1; `nats` is |D_g - D_d|^2 / sigma^2, whose integral over ln sigma is the KL
    divergence from generator to teacher; `score_loss` and `teacher_loss` are the denoising losses of both networks.
    """
    push = score - teacher
    return {
        "ratio": push.abs().flatten(1).mean(1) / residual(fake, teacher).flatten(),
        "nats": (push / sigma).square().flatten(1).sum(1),
        "score_loss": denoising_loss(score, fake, sigma),
        "teacher_loss": denoising_loss(teacher, fake, sigma),
    }


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside, no parameter of `module` requires a gradient; afterwards each is as it was."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
