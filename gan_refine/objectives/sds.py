"""Score distillation sampling (arXiv:2209.14988): Diff-Instruct's special case of a generator without spread."""

import torch
from torch import nn

from gan_refine.interfaces import Denoiser, Images, Labels, Loss, Objective
from gan_refine.noise import add_noise
from gan_refine.objectives.gan_file import GanFile
from gan_refine.objectives.score_model import SigmaOptions, sample_sigma


class Sds(Objective):
    """Gradient x - D_d: the score model of a Dirac at x is x itself (Cor. 3.4 of arXiv:2305.18455). Mode seeking."""

    Options = SigmaOptions

    def __init__(self, teacher: Denoiser, options: SigmaOptions | None = None, gan: GanFile | None = None) -> None:
        super().__init__()
        self.teacher = teacher
        self.law = (options or SigmaOptions()).law()

    def generator_loss(self, fake: Images, labels: Labels, rng: torch.Generator) -> Loss:
        """A surrogate loss whose gradient at x is x - D_d."""
        with torch.no_grad():
            sigma = sample_sigma(self.law, self.teacher, fake, rng)
            gradient = fake - self.teacher(add_noise(fake, sigma, rng), sigma, labels)
        return Loss((gradient * fake).flatten(1).sum(1), sigma.flatten(), {})

    def frozen_modules(self) -> list[nn.Module]:
        return [self.teacher]
