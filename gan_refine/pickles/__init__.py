"""Networks of StyleGAN2 and EDM in files: read without running anything, written so that they open elsewhere."""

from gan_refine.pickles.construct import (
    DEFAULT_NETWORK,
    TEACHER_KEYS,
    NetworkFile,
    build_discriminator,
    build_generator,
    build_teacher,
    foreign_discriminator,
)
from gan_refine.pickles.describe import Description, EmbeddedNetwork, describe
from gan_refine.pickles.network_files import one_step_sigma, read_networks, write_gan, write_one_step, write_state_dict
from gan_refine.pickles.reader import read_pickle
from gan_refine.pickles.records import (
    DAMAGE_ERRORS,
    ArrayRecord,
    PersistentObject,
    PickleFile,
    PlainObject,
    TensorRecord,
    error_text,
    named_tensors,
    printable,
)
from gan_refine.pickles.state_dicts import StateDict, is_state_dict, read_state_dict
from gan_refine.pickles.trusted import TrustedFile, run_pickle_file
from gan_refine.pickles.writer import check_refinable, write_networks, write_refined

__all__ = [
    "DAMAGE_ERRORS",
    "DEFAULT_NETWORK",
    "TEACHER_KEYS",
    "ArrayRecord",
    "Description",
    "EmbeddedNetwork",
    "NetworkFile",
    "PersistentObject",
    "PickleFile",
    "PlainObject",
    "StateDict",
    "TensorRecord",
    "TrustedFile",
    "build_discriminator",
    "build_generator",
    "build_teacher",
    "check_refinable",
    "describe",
    "error_text",
    "foreign_discriminator",
    "is_state_dict",
    "named_tensors",
    "one_step_sigma",
    "printable",
    "read_networks",
    "read_pickle",
    "read_state_dict",
    "run_pickle_file",
    "write_gan",
    "write_networks",
    "write_one_step",
    "write_refined",
    "write_state_dict",
]
