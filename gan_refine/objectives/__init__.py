"""Objectives: where the generator's gradient comes from, one file an idea, composed of the parts in parts.py."""

from collections.abc import Callable, Mapping

from torch import nn

from gan_refine.config import build_options, choose, parse_spec
from gan_refine.interfaces import Denoiser, Objective
from gan_refine.labels import Frequencies
from gan_refine.objectives.adversarial import Adversarial, AdversarialOptions
from gan_refine.objectives.best import Best, BestOptions
from gan_refine.objectives.carried import Carried, CarriedOptions
from gan_refine.objectives.composed import Composed
from gan_refine.objectives.diff_instruct import (
    DiffInstruct,
    DiffInstructDmd,
    DiffInstructDmdOptions,
    DiffInstructOptions,
)
from gan_refine.objectives.score_identity import Sid, SidOptions, Sim, SimOptions
from gan_refine.objectives.sds import Sds, SdsOptions

OBJECTIVES: Mapping[str, type[Composed] | type[Adversarial]] = {
    "best": Best,
    "carried": Carried,
    "diff-instruct": DiffInstruct,
    "diff-instruct-dmd": DiffInstructDmd,
    "sid": Sid,
    "sim": Sim,
    "adversarial": Adversarial,
    "sds": Sds,
}


def build_objective(
    spec: str,
    teacher: Denoiser,
    critic: Callable[[], nn.Module | None] = lambda: None,
    frequencies: Frequencies | None = None,
) -> Objective:
    """The objective written as NAME,key=value,...; `critic` gives the GAN's discriminator to those that use one.

    `frequencies` are those of the classes in samples of the teacher, where an objective makes some.

    All of the objective's networks are on the teacher's device. Raises OptionError that lists what is allowed.
    """
    return _build(spec, teacher, critic, frequencies).to(next(teacher.parameters()).device)


def _build(
    spec: str, teacher: Denoiser, critic: Callable[[], nn.Module | None], frequencies: Frequencies | None
) -> Composed | Adversarial:
    name, texts = parse_spec(spec)
    objective = choose("objective", name, OBJECTIVES)
    options = build_options(objective.Options, texts, f"objective {name}")
    if isinstance(options, AdversarialOptions):
        return Adversarial(teacher, options, critic() if options.start == "pickle" else None, frequencies)
    if isinstance(options, BestOptions):
        return Best(teacher, options, critic() if options.feature_weight else None)
    if isinstance(options, CarriedOptions):
        return Carried(teacher, options, critic() if options.start == "pickle" else None)
    return objective(teacher, options)  # type: ignore[arg-type]  # each class is given options of its own


__all__ = [
    "OBJECTIVES",
    "Adversarial",
    "AdversarialOptions",
    "Best",
    "BestOptions",
    "Carried",
    "CarriedOptions",
    "Composed",
    "DiffInstruct",
    "DiffInstructDmd",
]
__all__ += [
    "DiffInstructDmdOptions",
    "DiffInstructOptions",
    "Sds",
    "SdsOptions",
    "Sid",
    "SidOptions",
    "Sim",
    "SimOptions",
]
__all__ += ["build_objective"]
