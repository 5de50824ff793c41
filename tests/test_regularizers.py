"""--l2-images: closed forms of the regularizer. tests/test_bridge.py has the resumed run."""

import math
from dataclasses import replace

import pytest
import torch
from toys import PixelLoss, Quadratic, rng, small_stylegan2

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec, Objective
from gan_refine.refine import RefineState, refine
from gan_refine.refine.gradients import generator_gradient, micro_batches

SPEC = ImageSpec(1, 4)
PIXELS = 16
LR = 0.01
SIZES = {"total_images": 80, "batch": 8, "batch_gpu": 4, "tick_images": 80, "warmup_images": 0}
RATES = {"beta2": 0.999, "ema_halflife_images": 500, "glr": LR, "lr_rampup": 0.0, "lr_decay": 0.0}
OPTIONS = RefineOptions(**SIZES, **RATES)


def zero() -> Objective:
    return PixelLoss(lambda fake: 0 * fake)


def affine() -> AffineGenerator:
    return AffineGenerator(0.5, 0.25, SPEC)


def refined(objective: Objective, options: RefineOptions) -> tuple[float, float]:
    """Scale and shift after a run from 0.5 and 0.25."""
    generator = affine()
    for _ in refine(generator, objective, options):
        pass
    return float(generator.scale.detach()), float(generator.shift.detach())


def test_the_gradient_is_exact():
    """d/da and d/db of the mean over the batch of k sum_pixels (0.3 z - 0.4)^2, after a move from 0.5 z + 0.25 to 0.8 z - 0.15."""
    k, generator = 0.7, affine()
    state = RefineState(generator, zero(), replace(OPTIONS, l2_images=k))
    generator.scale.data.fill_(0.8)
    generator.shift.data.fill_(-0.15)
    generator_gradient(state, images=0, stream=0)
    z = torch.cat([latents.z for latents, _ in micro_batches(state, 0, 0)])
    error = 0.3 * z - 0.4
    assert float(generator.scale.grad) == pytest.approx(float(2 * k / 8 * (z * error).sum()), rel=1e-5)
    assert float(generator.shift.grad) == pytest.approx(float(2 * k / 8 * error.sum()), rel=1e-5)
    assert all(parameter.grad is None for parameter in state.regularizer.original.parameters())


@pytest.mark.parametrize("k", [0.02, 1.0])
def test_the_fixed_point_on_fresh_batches_is_the_minimum_of_both_losses(k):
    """(x - 1)^2 / P + k (x - x_0)^2 is least at x = (1 + k P x_0) / (1 + k P) in every pixel."""
    found = refined(Quadratic(), replace(OPTIONS, total_images=8 * 300, glr=2 * LR, l2_images=k, lr_decay=0.5))
    share = k * PIXELS / (1 + k * PIXELS)
    assert found == pytest.approx((share * 0.5, 1 - share + share * 0.25), abs=2e-3)


def test_a_large_weight_keeps_the_images():
    """Adam's steps have the size of its rate whatever the gradient: weights oscillate by a few of them and end where they began."""
    objective = Quadratic(scale=PIXELS / 2)
    options = replace(OPTIONS, total_images=8 * 200, lr_decay=0.7)
    assert refined(objective, options)[1] > 0.75
    assert abs(refined(objective, replace(options, l2_images=1e6))[1] - 0.25) < LR / 10


def test_both_images_have_the_same_noise():
    """The loss of a generator that did not move is exactly zero, although it has noise inputs."""
    generator = small_stylegan2(8, 3, 1.0)
    state = RefineState(generator, zero(), replace(OPTIONS, l2_images=1.0))
    latents = generator.draw(4, rng())
    loss = state.regularizer(generator(latents), latents)
    assert loss.tolist() == [0.0] * 4 and loss.requires_grad
    other = replace(latents, noise_seed=latents.noise_seed + 1)
    assert float(state.regularizer(generator(latents), other).detach().min()) > 0


def test_without_a_weight_no_copy_is_made():
    assert RefineState(affine(), zero(), OPTIONS).regularizer.original is None


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_bad_weights_are_refused(value):
    with pytest.raises(OptionError, match=f"--l2-images={value} is not allowed; give a number from 0 to"):
        RefineOptions(l2_images=value)
