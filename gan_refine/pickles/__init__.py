"""Network pickles of StyleGAN2-ADA and EDM: read without running anything, written so that they open elsewhere."""

from gan_refine.pickles.construct import build_discriminator, build_generator, build_teacher
from gan_refine.pickles.reader import read_pickle
from gan_refine.pickles.records import (
    ArrayRecord,
    PersistentObject,
    PickleFile,
    PlainObject,
    TensorRecord,
    named_tensors,
)
from gan_refine.pickles.writer import write_networks, write_refined

__all__ = [
    "ArrayRecord",
    "PersistentObject",
    "PickleFile",
    "PlainObject",
    "TensorRecord",
    "build_discriminator",
    "build_generator",
    "build_teacher",
    "named_tensors",
    "read_pickle",
    "write_networks",
    "write_refined",
]
