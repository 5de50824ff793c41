"""Score distillation sampling (arXiv:2209.14988): Diff-Instruct's special case of a generator without spread."""

from dataclasses import dataclass

from gan_refine.objectives.composed import Composed, Recipe
from gan_refine.objectives.parts import Dirac, LawOptions, released


@dataclass(frozen=True)
class SdsOptions(LawOptions):
    """The noise law of the step."""

    def recipe(self) -> Recipe:
        return Recipe(self.law(), released, Dirac())


class Sds(Composed):
    """Gradient x - D_d: the score model of a Dirac at x is x itself (Cor. 3.4 of arXiv:2305.18455). Seeks modes."""

    Options = SdsOptions
