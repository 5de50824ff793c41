"""The method: alternate steps of the score model and of the generator. Prints nothing, writes nothing."""

from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from gan_refine.config import RefineOptions
from gan_refine.interfaces import Generator, Objective
from gan_refine.refine.diagnosis import diagnose
from gan_refine.refine.fitting import fit_batch
from gan_refine.refine.health import SIGMA_BANDS, Health
from gan_refine.refine.loop import Progress, advance, refine
from gan_refine.refine.modules import load_tensors
from gan_refine.refine.parameters import resolve_glr, resolve_train, trainable_groups
from gan_refine.refine.record import StateRecord, expected_bytes, fingerprints, load_state, record_state
from gan_refine.refine.schedule import lr_factor
from gan_refine.refine.state import RefineState

__all__ = [
    "SIGMA_BANDS",
    "Health",
    "Progress",
    "RefineState",
    "StateRecord",
    "advance",
    "diagnose",
    "expected_bytes",
    "fingerprints",
    "fit_batch",
    "load_state",
    "load_tensors",
    "lr_factor",
    "record_state",
    "refine",
    "resolve_glr",
    "resolve_train",
    "trainable_groups",
]


class CallablePackage(ModuleType):
    """`gan_refine.refine` is this package and a function of the public API: it is both, whichever was imported first."""

    def __call__(self, generator: Generator, objective: Objective, options: RefineOptions) -> Iterator[Progress]:
        return refine(generator, objective, options)


import_module(__name__).__class__ = CallablePackage
