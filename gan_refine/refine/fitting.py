"""How many images fit into memory at a time: found by trying, before a run begins."""

from dataclasses import replace

import torch

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.foundation import distributed
from gan_refine.interfaces import Generator, Objective
from gan_refine.refine.gradients import WARMUP_STREAM, auxiliary_gradient
from gan_refine.refine.trial import trial_state, try_step


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
    for size in (n for n in range(share, 0, -1) if share % n == 0 and objective.accepts_batch(n)):
        fits = _fits(generator, objective, replace(options, batch=size * processes, batch_gpu=size))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # what a failed trial left
        if not distributed.any_across(not fits):
            return size
    raise OptionError("not even one image at a time fits into memory; give --recompute, or a smaller teacher")


def _fits(generator: Generator, objective: Objective, options: RefineOptions) -> bool:
    """Whether the gradients of one step of each kind fit; they add up as within a large batch."""
    try:
        state = trial_state(generator, objective, generator.spec, options)
        # Adam will keep two moments of each weight: one is as large as the copies made here, this is the other.
        moments = [torch.empty_like(parameter) for parameter in state.trained_parameters()]
        if "auxiliary" in state.optimizers:
            auxiliary_gradient(state, 0, WARMUP_STREAM)
        for start in objective.phase_starts:
            try_step(state, start)
        del moments
    except torch.cuda.OutOfMemoryError:
        return False
    return True
