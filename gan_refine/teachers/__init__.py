"""Teachers: pretrained denoisers, one file per format."""

from gan_refine.teachers.any_module import load_any_teacher
from gan_refine.teachers.edm import EdmTeacher, edm_network, in_precision, load_edm, recompute_activations
from gan_refine.teachers.gaussian import GaussianTeacher

TEACHERS = {"edm": load_edm, "trusted": load_any_teacher}

__all__ = [
    "TEACHERS",
    "EdmTeacher",
    "GaussianTeacher",
    "edm_network",
    "in_precision",
    "load_any_teacher",
    "load_edm",
    "recompute_activations",
]
