"""Generators: what is refined, one file a family. ORIGINALS say how each writes a file that was not refined."""

from collections.abc import Callable
from pathlib import Path

from gan_refine.generators.any_module import AnyGenerator, load_any_generator, write_any_original
from gan_refine.generators.bridge import Bridged, BridgeOptions, bridge, can_bridge
from gan_refine.generators.dirac import CoordinateNetwork, Dirac, DiracImage
from gan_refine.generators.drawing import Drawing
from gan_refine.generators.one_step import (
    OneStep,
    OneStepOptions,
    distil,
    is_one_step,
    load_one_step,
    write_one_step_original,
)
from gan_refine.generators.stylegan2 import StyleGan2, load_stylegan2, write_original
from gan_refine.generators.toy import AffineGenerator

AnyFamily = StyleGan2 | OneStep | AnyGenerator
GENERATORS: dict[str, Callable[..., AnyFamily]] = {
    "stylegan2": load_stylegan2,
    "one-step": load_one_step,
    "trusted": load_any_generator,
}
ORIGINALS: dict[str, Callable[[Path, Path, str], None]] = {
    "stylegan2": write_original,
    "one-step": write_one_step_original,
    "trusted": write_any_original,
}

__all__ = [
    "GENERATORS",
    "ORIGINALS",
    "AffineGenerator",
    "AnyGenerator",
    "BridgeOptions",
    "Bridged",
    "CoordinateNetwork",
    "Dirac",
    "DiracImage",
    "Drawing",
    "OneStep",
    "OneStepOptions",
    "StyleGan2",
    "bridge",
    "can_bridge",
    "distil",
    "is_one_step",
    "load_any_generator",
    "load_one_step",
    "load_stylegan2",
    "write_any_original",
    "write_one_step_original",
    "write_original",
]
