"""The joint step of Diff-Instruct: one batch and one pass of the score model for both updates."""

import pytest
import torch

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.objectives import build_objective
from gan_refine.refine import refine
from gan_refine.teachers import GaussianTeacher

SPEC = ImageSpec(channels=1, resolution=4)


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_both_losses_and_gradients_are_those_of_two_passes() -> None:
    objective = build_objective("diff-instruct,joint=true", GaussianTeacher(1.0, 0.5, SPEC))
    parameters = objective.auxiliary_groups()[0].parameters
    for parameter in parameters:
        parameter.data += 0.3  # equal networks would make every gradient of the generator zero
    fake, labels = torch.randn(6, 1, 4, 4, requires_grad=True), torch.zeros(6, 0)
    together = objective.joint_losses(fake, labels, rng())
    apart = objective.auxiliary_loss(fake.detach(), labels, rng()), objective.generator_loss(fake, labels, rng())
    inputs = [*parameters, fake]
    gradients = [torch.autograd.grad(sum(loss.per_sample.sum() for loss in pair), inputs) for pair in (together, apart)]
    for joint, separate in zip(together, apart, strict=True):
        torch.testing.assert_close(joint.per_sample, separate.per_sample)
        torch.testing.assert_close(joint.sigma, separate.sigma)
    for joint, separate in zip(*gradients, strict=True):
        assert joint.abs().max() > 0
        torch.testing.assert_close(joint, separate)


def test_it_moves_a_gaussian_to_the_teacher() -> None:
    generator, teacher = AffineGenerator(0.5, 0.0, SPEC), GaussianTeacher(1.0, 0.5, SPEC)
    options = RefineOptions(
        total_images=32_000, warmup_images=6_400, glr=1e-2, score_lr=1e-2, lr_decay=1, tick_images=32_000
    )
    for _ in refine(generator, build_objective("diff-instruct,joint=true", teacher), options):
        pass
    assert abs(generator.shift.item() - 1) < 0.1 and abs(generator.scale.item() - 0.5) < 0.1


@pytest.mark.parametrize("other", ["score_steps=2", "score_ema=100", "sigma=karras", "sigma_mean=0"])
def test_options_that_the_two_steps_cannot_share_are_refused(other: str) -> None:
    with pytest.raises(OptionError, match="joint"):
        build_objective(f"diff-instruct,joint=true,{other}", GaussianTeacher(1.0, 0.5, SPEC))
