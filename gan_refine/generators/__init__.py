"""Generators: what is refined, one file a family."""

from gan_refine.generators.stylegan2 import StyleGan2, load_stylegan2, write_original
from gan_refine.generators.toy import AffineGenerator

GENERATORS = {"stylegan2": load_stylegan2}

__all__ = ["GENERATORS", "AffineGenerator", "StyleGan2", "load_stylegan2", "write_original"]
