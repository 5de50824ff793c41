"""Score identity distillation (arXiv:2404.04057), score implicit matching (arXiv:2410.16794): gradients through both networks."""

from dataclasses import dataclass
from typing import Literal

from gan_refine.config import require
from gan_refine.objectives.composed import Recipe, Scored, ScoreOptions
from gan_refine.objectives.parts import ScoreIdentity, finite, per_sample, pseudo_huber


@dataclass(frozen=True)
class SidOptions(ScoreOptions):
    """`alpha` 1 leaves out the squared difference of the denoisers; 1.2 subtracts a fifth of it."""

    sigma: Literal["lognormal", "karras"] = "karras"
    sigma_from: float = 0.0
    sigma_to: float = 0.8  # of the grid: up to sigma 24.4
    alpha: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        finite("alpha", self.alpha)

    def recipe(self) -> Recipe:
        return Recipe(self.law(), per_sample, ScoreIdentity(self.alpha))


class Sid(Scored):
    """Gradient of (D_d - D_g) . [(D_d - x) - alpha (D_d - D_g)] / |x - D_d|_1, Algorithm 1 of arXiv:2404.04057.

    The divisor is a constant; everything else is differentiated, through x_t, with the weights of both networks held.
    """

    Options = SidOptions


@dataclass(frozen=True)
class SimOptions(ScoreOptions):
    """`huber` is c in sqrt(|D_d - D_g|^2 + d c^2) with d pixels; the default is that of arXiv:2310.14189, section 3.3."""

    sigma: Literal["lognormal", "karras"] = "karras"
    sigma_from: float = 0.0
    sigma_to: float = 0.8
    huber: float = 0.00054

    def __post_init__(self) -> None:
        super().__post_init__()
        require("huber", self.huber, 0 < self.huber < float("inf"), "a positive number")

    def recipe(self) -> Recipe:
        return Recipe(self.law(), pseudo_huber(self.huber), ScoreIdentity(1.0))


class Sim(Scored):
    """Gradient of (D_d - D_g) . (D_g - x) / sqrt(|D_d - D_g|^2 + d c^2), Theorem 3.1 of arXiv:2410.16794.

    The weight is the derivative of a pseudo-Huber distance between the denoisers (the paper's is between scores); by that
    theorem it is differentiated too.
    """

    Options = SimOptions
