"""Learning rates over a run."""

import math

from gan_refine.refine.state import RefineState


def lr_factor(done: float, rampup_share: float, decay_share: float) -> float:
    """A linear rise over the first `rampup_share` of the run, 1, a cosine to 0 over the last `decay_share`; `done` is in [0, 1].

    Adam's first steps have full size whatever the gradient: without the rise they move a trained network far off.
    """
    rise = min(done / rampup_share, 1.0) if rampup_share else 1.0
    if done <= 1 - decay_share or decay_share == 0:
        return rise
    return rise * 0.5 * (1 + math.cos(math.pi * (done - (1 - decay_share)) / decay_share))


def rate_factor(state: RefineState, images: int) -> float:
    """The factor of all learning rates after `images` images: it rises at the start of a run and falls at its end."""
    options, done = state.options, images / state.options.total_images
    return lr_factor(done, options.lr_rampup, 0.0) * lr_factor(done, 0.0, options.lr_decay)


def generator_rates(state: RefineState, factor: float) -> list[float]:
    """The learning rate of each of the generator's parameter groups."""
    return [state.glr * factor * multiple for multiple in state.generator_multiples]
