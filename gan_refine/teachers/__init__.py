"""Teachers: pretrained denoisers, one file a format."""

from gan_refine.teachers.edm import EdmTeacher, load_edm
from gan_refine.teachers.gaussian import GaussianTeacher

TEACHERS = {"edm": load_edm}

__all__ = ["TEACHERS", "EdmTeacher", "GaussianTeacher", "load_edm"]
