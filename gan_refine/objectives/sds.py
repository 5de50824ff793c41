"""Score distillation sampling (arXiv:2209.14988): Diff-Instruct's special case of a generator without spread."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from gan_refine.config import require
from gan_refine.interfaces import Denoiser, HelperGroup, Images, Labels, Terms
from gan_refine.noise import LogNormal, add_noise


@dataclass(frozen=True)
class SdsOptions:
    """The noise law of the step: ln sigma ~ N(sigma_mean, sigma_std^2)."""

    sigma_mean: float = -1.2
    sigma_std: float = 1.2

    def __post_init__(self) -> None:
        require("sigma_std", self.sigma_std, self.sigma_std > 0, "a positive number")


class Sds(nn.Module):
    """Gradient x - D_d: the score model of a Dirac at x is x itself (Cor. 3.4 of arXiv:2305.18455). Seeks modes."""

    Options = SdsOptions
    helper_steps = 0

    def __init__(self, teacher: Denoiser, options: SdsOptions | None = None) -> None:
        super().__init__()
        self.options = options or SdsOptions()
        self.teacher = teacher
        self._law = LogNormal(self.options.sigma_mean, self.options.sigma_std)

    def prepare(self, rng: torch.Generator) -> Iterator[tuple[int, int]]:
        """Nothing to make beforehand."""
        yield from ()

    def helper_groups(self) -> list[HelperGroup]:
        return []

    def helper_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> None:
        return None

    def generator_terms(self, fake: Images, labels: Labels, rng: torch.Generator) -> Terms:
        clean = fake.detach()
        with torch.no_grad():
            sigma = self._law.sample(len(clean), rng, clean.device).clamp(*self.teacher.sigma_range)
            gradient = clean - self.teacher(add_noise(clean, sigma, rng), sigma, labels)
        return Terms((gradient * fake).flatten(1).sum(1), sigma.flatten(), {})
