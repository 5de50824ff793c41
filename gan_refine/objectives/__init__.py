"""Objectives: where the generator's gradient comes from, one file per idea, chosen by name from the table OBJECTIVES."""

from collections.abc import Mapping

from gan_refine.config import build_options, choose, parse_spec, write_spec
from gan_refine.interfaces import Denoiser, Objective
from gan_refine.objectives.di_gan import DiGan, DiGanOptions
from gan_refine.objectives.diff_instruct import (
    DiffInstruct,
    DiffInstructDmd,
    DiffInstructDmdOptions,
    DiffInstructOptions,
)
from gan_refine.objectives.gan_file import GanFile
from gan_refine.objectives.score_identity import Sid, SidOptions, Sim, SimOptions
from gan_refine.objectives.score_model import ScoreModelObjective, SigmaOptions
from gan_refine.objectives.sds import Sds

# Each class is called as cls(teacher, options, gan) with options of its dataclass cls.Options.
OBJECTIVES: Mapping[str, type[Objective]] = {
    "di-gan": DiGan,
    "diff-instruct": DiffInstruct,
    "diff-instruct-dmd": DiffInstructDmd,
    "sid": Sid,
    "sim": Sim,
    "sds": Sds,
}


def objective_class(spec: str) -> type[Objective]:
    """The class that `NAME,key=value,...` names. Raises OptionError that lists the names."""
    return choose("objective", parse_spec(spec)[0], OBJECTIVES)


def complete_spec(spec: str) -> str:
    """`NAME,key=value,...` with the default of every option that `spec` does not name. Raises OptionError."""
    return write_spec(parse_spec(spec)[0], _options(spec))


def build_objective(spec: str, teacher: Denoiser, gan: GanFile | None = None) -> Objective:
    """The objective written as `NAME,key=value,...`, on the teacher's device. Raises OptionError that lists what is allowed."""
    objective = objective_class(spec)(teacher, _options(spec), gan)  # type: ignore[call-arg]
    return objective.to(next(teacher.parameters()).device)


def _options(spec: str) -> object:
    name, texts = parse_spec(spec)
    return build_options(objective_class(spec).Options, texts, f"--objective={name}")  # type: ignore[attr-defined]


__all__ = [
    "OBJECTIVES",
    "DiGan",
    "DiGanOptions",
    "DiffInstruct",
    "DiffInstructDmd",
    "DiffInstructDmdOptions",
    "DiffInstructOptions",
    "GanFile",
    "ScoreModelObjective",
    "Sds",
    "Sid",
    "SidOptions",
    "SigmaOptions",
    "Sim",
    "SimOptions",
    "build_objective",
    "complete_spec",
    "objective_class",
]
