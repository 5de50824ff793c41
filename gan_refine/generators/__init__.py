"""Generators: what is refined. GENERATORS lists the families that are read from files, one class in one file each."""

from pathlib import Path

from gan_refine.generators.any_module import AnyGenerator
from gan_refine.generators.bridge import Bridged, BridgeOptions, bridge, can_bridge
from gan_refine.generators.one_step import OneStep, OneStepOptions, one_step_of
from gan_refine.generators.pretrained import LatentOptions, PretrainedGenerator
from gan_refine.generators.stylegan2 import StyleGan2
from gan_refine.generators.toy import AffineGenerator
from gan_refine.pickles import DEFAULT_NETWORK, read_networks, run_pickle_file

# A file belongs to the first family that accepts it once it is opened.
GENERATORS: dict[str, type[PretrainedGenerator]] = {cls.family: cls for cls in (AnyGenerator, OneStep, StyleGan2)}


def load_pretrained(path: Path, which: str = DEFAULT_NETWORK, trusted: bool = False) -> PretrainedGenerator:
    """The generator in a file of any family, opened and parsed once. Only a `trusted` file's code runs. Raises FileFormatError."""
    source = run_pickle_file(path) if trusted else read_networks(path)
    return next(cls for cls in GENERATORS.values() if cls.accepts(source)).from_source(source, which)


__all__ = [
    "GENERATORS",
    "AffineGenerator",
    "AnyGenerator",
    "BridgeOptions",
    "Bridged",
    "LatentOptions",
    "OneStep",
    "OneStepOptions",
    "PretrainedGenerator",
    "StyleGan2",
    "bridge",
    "can_bridge",
    "load_pretrained",
    "one_step_of",
]
