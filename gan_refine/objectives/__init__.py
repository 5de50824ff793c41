"""Objectives: where the generator's gradient comes from, one file an idea."""

from gan_refine.objectives.diff_instruct import DiffInstruct, DiffInstructOptions
from gan_refine.objectives.sds import Sds, SdsOptions

OBJECTIVES = {"diff-instruct": DiffInstruct, "sds": Sds}

__all__ = ["OBJECTIVES", "DiffInstruct", "DiffInstructOptions", "Sds", "SdsOptions"]
