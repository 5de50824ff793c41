"""The adversarial objective on teacher samples."""

import pytest
import torch

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.objectives import Adversarial, AdversarialOptions, build_objective
from gan_refine.refine import refine
from gan_refine.teachers import GaussianTeacher

SPEC = ImageSpec(channels=1, resolution=8)
FEW = {"samples": 64, "steps": 40, "discriminator_width": 8, "start": "fresh"}


def prepared(**options) -> Adversarial:
    objective = Adversarial(GaussianTeacher(0.5, 0.25, SPEC), AdversarialOptions(**{**FEW, **options}))
    heard = list(objective.prepare(torch.Generator().manual_seed(0)))
    assert heard[-1] == (64, 64)
    return objective


def test_samples_are_the_teachers_and_are_made_once():
    objective = prepared()
    assert objective.samples.shape == (64, 1, 8, 8)
    assert float(objective.samples.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(objective.samples.std()) == pytest.approx(0.25, rel=0.1)
    assert list(objective.prepare(torch.Generator().manual_seed(1))) == []


def test_the_generators_step_leaves_no_gradient_on_the_discriminator():
    objective = prepared(push=0.1)
    fake = torch.randn([4, 1, 8, 8], requires_grad=True)
    terms = objective.generator_terms(fake, torch.zeros([4, 0]), torch.Generator().manual_seed(0))
    terms.loss.sum().backward()
    assert fake.grad is not None
    assert fake.grad.abs().sum() > 0
    groups = objective.helper_groups()
    assert [group.lr for group in groups] == [2.5e-3, None]
    assert all(parameter.grad is None for group in groups for parameter in group.parameters)


def test_helpers_all_learn():
    objective = prepared(push=0.1)
    terms = objective.helper_terms(torch.randn([4, 1, 8, 8]), torch.zeros([4, 0]), torch.Generator().manual_seed(0))
    terms.loss.sum().backward()
    for group in objective.helper_groups():
        assert sum(float(p.grad.abs().sum()) for p in group.parameters if p.grad is not None) > 0


def test_generator_moves_to_the_teachers_mean():
    generator = AffineGenerator(scale=0.25, shift=-0.5, spec=SPEC)
    options = RefineOptions(
        pool_images=0, total_images=16 * 150, batch=16, batch_gpu=16, glr=0.02, tick_images=16 * 150
    )
    refined = list(refine(generator, prepared(), options))
    assert float(refined[-1].average.shift) == pytest.approx(0.5, abs=0.2)


def test_options_are_checked():
    teacher = GaussianTeacher(0.5, 0.25, SPEC)
    assert isinstance(build_objective("adversarial,start=fresh,push=0.1,samples=64", teacher), Adversarial)
    with pytest.raises(OptionError, match="--samples=0 is not allowed"):
        build_objective("adversarial,samples=0", teacher)
