"""How many images fit into memory at a time: found by trying, before a run begins."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.interfaces import Generator, Objective
from gan_refine.noise import rng_for
from gan_refine.refine.gradients import (
    PREPARE_STREAM,
    WARMUP_STREAM,
    critic_gradient,
    generator_gradient,
    helper_gradient,
    pool_batch,
    towards_pool,
)
from gan_refine.refine.state import RefineState
from torch_utils import distributed


def fit_batch(
    generator: Generator, objective: Objective, options: RefineOptions, frozen: Sequence[nn.Module] = ()
) -> int:
    """The largest micro-batch for which a step of each kind fits into the memory of every process's device.

    Divisors of a process's share of `options.batch` are tried from the largest, on copies: nothing given is changed.
    Raises OptionError if not even one image fits, or for an objective that makes samples first.
    """
    processes = distributed.get_world_size()
    if options.batch % processes:
        raise OptionError(
            f"--batch={options.batch} cannot be dealt to {processes} processes; choose a multiple of that"
        )
    share = options.batch // processes
    for size in (number for number in range(share, 0, -1) if share % number == 0):
        fits = _fits(generator, objective, replace(options, batch=size * processes, batch_gpu=size), frozen)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what a failed trial left
        if not distributed.any_across(not fits):
            return size
    raise OptionError("not even one image at a time fits into memory; give --recompute, or a smaller teacher")


def _fits(generator: Generator, objective: Objective, options: RefineOptions, frozen: Sequence[nn.Module]) -> bool:
    try:
        kept: dict[int, object] = {id(module): module for module in frozen}
        state = RefineState(copy.deepcopy(generator), copy.deepcopy(objective, kept), options, frozen)
        # Adam will keep two moments of each weight: one is as large as the copies made here, this is the other.
        groups = [group for optimizer in state.optimizers.values() for group in optimizer.param_groups]
        moments = [torch.empty_like(parameter) for group in groups for parameter in group["params"]]
        _one_of_each(state)
        del moments
    except torch.cuda.OutOfMemoryError:
        return False
    return True


def _one_of_each(state: RefineState) -> None:
    """The gradient of one step of each kind that the loop will take; gradients add up as within a large batch."""
    if next(state.objective.prepare(rng_for(state.options.seed, 0, 0, PREPARE_STREAM)), None) is not None:
        raise OptionError("--batch-gpu=auto cannot try an objective that first makes samples; give a number")
    if "helper" in state.optimizers:
        helper_gradient(state, 0, WARMUP_STREAM)
    if not state.options.pool_images:
        generator_gradient(state, 0, 0)
        return
    batch = pool_batch(state, 0)
    fakes = towards_pool(state, batch)
    if "critic" in state.optimizers:
        critic_gradient(state, batch, fakes)
