"""Diff-Instruct (arXiv:2305.18455): follow the difference of two scores, the generator's own and the teacher's."""

from dataclasses import dataclass
from typing import Literal

from gan_refine.objectives.composed import Recipe, Scored, ScoreOptions
from gan_refine.objectives.parts import Difference, per_sample, released, score_units

WEIGHTS = {"sigma2": released, "dmd": per_sample, "score": score_units}


@dataclass(frozen=True)
class DiffInstructOptions(ScoreOptions):
    """`weight` sigma2 is what the authors released, dmd the normalisation of arXiv:2311.18828, score a constant weight."""

    weight: Literal["sigma2", "dmd", "score"] = "sigma2"

    def recipe(self) -> Recipe:
        return Recipe(self.law(), WEIGHTS[self.weight], Difference())


class DiffInstruct(Scored):
    """Gradient w(sigma) (D_g - D_d) / sigma^2 at the generator's images, eq. 3.2; nothing is back-propagated through a denoiser.

    With the defaults, the authors' released settings: w = sigma^2, ln sigma ~ N(-1.2, 1.2^2), one step of the score model.
    """

    Options = DiffInstructOptions


@dataclass(frozen=True)
class DiffInstructDmdOptions(DiffInstructOptions):
    """Diff-Instruct's options with other defaults."""

    weight: Literal["sigma2", "dmd", "score"] = "dmd"
    sigma: Literal["lognormal", "karras"] = "karras"
    score_steps: int = 5


class DiffInstructDmd(Scored):
    """Gradient (D_g - D_d) / |x - D_d|_1, eq. 8 of DMD (arXiv:2311.18828), sigma on the sampler's grid from 2 % to 98 %.

    Five steps of the score model for each of the generator, as in DMD2 (arXiv:2405.14867), section 4.2.
    """

    Options = DiffInstructDmdOptions
