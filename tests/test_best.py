"""The default objective: what a discriminator sees in images, and how pools are learnt with it."""

from dataclasses import replace

import pytest
import torch

from gan_refine import assets
from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import StyleGan2, load_stylegan2
from gan_refine.interfaces import ImageSpec, PerceivingObjective
from gan_refine.networks.stylegan2 import Discriminator
from gan_refine.objectives import Best, BestOptions, DiffInstruct, build_objective
from gan_refine.objectives.features import Features
from gan_refine.refine import RefineState, pool_batch
from gan_refine.refine.gradients import towards_pool
from gan_refine.teachers import EdmTeacher, GaussianTeacher, load_edm

SPEC = ImageSpec(1, 16)
QUICK = BestOptions(score_ema=0)


def discriminator(architecture: str = "resnet", resolution: int = 16) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(0, resolution, 1, architecture, 128, 8)


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand([n, 1, 16, 16], generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def pair() -> tuple[StyleGan2, EdmTeacher]:
    return load_stylegan2(assets.resolve("gan", "fashion16")), load_edm(assets.resolve("teacher", "fashion16"))


@pytest.mark.parametrize("architecture, layers", [("orig", 5), ("skip", 6), ("resnet", 5)])
def test_every_image_is_seen_on_its_own_at_every_convolution(architecture, layers):
    features, batch = Features(discriminator(architecture)), images(5)
    together = features(batch)
    assert len(together) == layers
    for number in range(5):
        for whole, alone in zip(together, features(batch[number : number + 1]), strict=True):
            torch.testing.assert_close(whole[number : number + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_last_features_are_those_that_the_discriminators_own_pass_comes_to():
    network = discriminator()
    seen = []
    handle = network.b8.conv1.register_forward_hook(lambda module, given, found: seen.append(found))
    network(images(4), None)
    handle.remove()
    torch.testing.assert_close(Features(network)(images(4))[-1], seen[0])


def test_the_difference_is_relative_and_its_gradient_goes_to_the_images_alone():
    features = Features(discriminator())
    fake, target = images(4).requires_grad_(), images(4, seed=1)
    found = features.difference(fake, target)
    expected = torch.zeros(4)
    for a, b in zip(features(fake), features(target), strict=True):
        expected += (a - b).detach().square().sum([1, 2, 3]) / b.detach().square().sum([1, 2, 3]) / 5
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)
    found.sum().backward()
    assert fake.grad is not None and float(fake.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in features.parameters())
    assert features.difference(target, target).tolist() == [0.0] * 4


def test_pixels_count_beside_features_and_alone_where_there_are_none():
    fake, target = images(3), images(3, seed=1)
    pixels = (fake - target).square().sum([1, 2, 3])
    teacher = GaussianTeacher(0.0, 1.0, SPEC)
    with_eyes = Best(teacher, replace(QUICK, feature_weight=0.5), discriminator())
    seen = Features(discriminator()).difference(fake, target)
    torch.testing.assert_close(with_eyes.difference(fake, target), pixels + 0.5 * 256 * seen)
    blind = [
        Best(teacher, QUICK),
        Best(teacher, QUICK, discriminator(resolution=32)),
        Best(teacher, QUICK, torch.nn.Linear(1, 1)),
        Best(teacher, replace(QUICK, feature_weight=0.0), discriminator()),
    ]
    for objective in blind:
        torch.testing.assert_close(objective.difference(fake, target), pixels)
    with pytest.raises(OptionError, match="feature-weight=-1"):
        BestOptions(feature_weight=-1)


def test_the_generators_gradient_over_a_pool_is_that_of_this_distance(pair):
    gan, teacher = pair
    objective = build_objective("best,score_ema=0", teacher, gan.critic)
    assert isinstance(objective, Best) and objective.features is not None and isinstance(objective, PerceivingObjective)
    with torch.no_grad():
        for parameter in objective.score_model.parameters():
            parameter.mul_(1.01)
    state = RefineState(gan, objective, RefineOptions(batch=8, batch_gpu=4, pool_images=8, pool_moves=1))
    batch = pool_batch(state, 0)
    assert len(batch) == 2 and float((batch[0].target - gan(batch[0].latents)).detach().abs().max()) > 0.01
    towards_pool(state, batch)
    (first, *_), total = gan.parameters(), torch.zeros([])
    found = first.grad.clone()
    first.grad = None
    for part in batch:
        total = total + objective.difference(gan(part.latents), part.target).sum() / 8
    (expected,) = torch.autograd.grad(total, first)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


def test_its_gradient_is_diff_instructs():
    teacher = GaussianTeacher(0.2, 0.5, SPEC)
    fake = images(4).requires_grad_()
    gradients = []
    for objective in (Best(teacher, QUICK), build_objective("diff-instruct,sigma_mean=-0.6,sigma_std=0.3", teacher)):
        assert isinstance(objective, DiffInstruct)
        objective.score_model.mean.data.fill_(0.5)
        terms = objective.generator_terms(fake, torch.zeros([4, 0]), torch.Generator().manual_seed(0))
        gradients.append(torch.autograd.grad(terms.loss.sum(), fake)[0])
    assert torch.equal(*gradients) and float(gradients[0].abs().max()) > 0
