"""How many images fit into memory at a time: found by trying, before a run begins."""

import copy
from dataclasses import replace

import torch

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.foundation import distributed
from gan_refine.interfaces import Generator, ImageSpec, Objective
from gan_refine.refine.gradients import WARMUP_STREAM, auxiliary_gradient, generator_gradient
from gan_refine.refine.state import RefineState


def fit_batch(generator: Generator, objective: Objective, options: RefineOptions) -> int:
    """The largest micro-batch for which a step of each kind fits into the memory of every process's device.

    Divisors of a process's share of `options.batch` are tried from the largest, on copies: nothing given is changed.
    Raises OptionError if not even one image fits.
    """
    processes = distributed.get_world_size()
    if options.batch % processes:
        raise OptionError(
            f"--batch={options.batch} cannot be divided among {processes} processes; choose a multiple of that"
        )
    share = options.batch // processes
    for size in (number for number in range(share, 0, -1) if share % number == 0):
        fits = _fits(generator, objective, replace(options, batch=size * processes, batch_gpu=size))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what a failed trial left
        if not distributed.any_across(not fits):
            return size
    raise OptionError("not even one image at a time fits into memory; give --recompute, or a smaller teacher")


def _fits(generator: Generator, objective: Objective, options: RefineOptions) -> bool:
    try:
        kept: dict[int, object] = {id(module): module for module in objective.frozen_modules()}
        state = RefineState(copy.deepcopy(generator), copy.deepcopy(objective, kept), options)
        give_stand_ins(state.objective, generator.spec)
        # Adam will keep two moments of each weight: one is as large as the copies made here, this is the other.
        moments = [torch.empty_like(parameter) for parameter in state.trained_parameters()]
        _one_of_each(state)
        del moments
    except torch.cuda.OutOfMemoryError:
        return False
    return True


def _one_of_each(state: RefineState) -> None:
    """The gradient of one step of each kind that the loop will take; gradients add up as within a large batch."""
    if "auxiliary" in state.optimizers:
        auxiliary_gradient(state, 0, WARMUP_STREAM)
    generator_gradient(state, 0, 0)


def give_stand_ins(objective: Objective, spec: ImageSpec) -> None:
    """A copy that is only tried gets noise in place of the teacher's samples."""
    if objective.wanted_samples is not None:
        shape = [objective.wanted_samples.number, spec.channels, spec.resolution, spec.resolution]
        images = torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        objective.give_samples(images, torch.zeros([len(images), spec.num_classes]))
