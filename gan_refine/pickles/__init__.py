"""Networks of StyleGAN2 and EDM in files: read without running anything, written so that they open elsewhere."""

from gan_refine.pickles.construct import NetworkFile, build_discriminator, build_generator, build_teacher
from gan_refine.pickles.export import read_networks, write_gan, write_state_dict
from gan_refine.pickles.reader import read_pickle
from gan_refine.pickles.records import (
    ArrayRecord,
    PersistentObject,
    PickleFile,
    PlainObject,
    TensorRecord,
    named_tensors,
)
from gan_refine.pickles.state_dicts import StateDict, read_state_dict
from gan_refine.pickles.writer import check_refinable, write_networks, write_refined

__all__ = [
    "ArrayRecord",
    "NetworkFile",
    "PersistentObject",
    "PickleFile",
    "PlainObject",
    "StateDict",
    "TensorRecord",
    "build_discriminator",
    "build_generator",
    "build_teacher",
    "check_refinable",
    "named_tensors",
    "read_networks",
    "read_pickle",
    "read_state_dict",
    "write_gan",
    "write_networks",
    "write_refined",
    "write_state_dict",
]
