"""The default objective: the features of a discriminator, and how target pools are learned with them."""

from dataclasses import replace

import pytest
import torch
from toys import gradient_at

from gan_refine import assets
from gan_refine.config import RefineOptions
from gan_refine.generators import StyleGan2
from gan_refine.interfaces import ImageSpec
from gan_refine.networks.stylegan2 import Discriminator
from gan_refine.objectives import (
    DiffInstruct,
    DiffInstructPerceptual,
    DiffInstructPerceptualOptions,
    GanFile,
    build_objective,
)
from gan_refine.objectives.perceptual import DiscriminatorFeatures
from gan_refine.refine import RefineState, make_targets
from gan_refine.refine.pool import target_gradient
from gan_refine.teachers import EdmTeacher, GaussianTeacher, load_edm

SPEC = ImageSpec(1, 16)
QUICK = DiffInstructPerceptualOptions(score_ema=0)
NOTICE = "The GAN's file has no discriminator of the teacher's size: target pools are learned in pixels alone."


def discriminator(architecture: str = "resnet", resolution: int = 16) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(0, resolution, 1, architecture, 128, 8)


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand([n, 1, 16, 16], generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def pair() -> tuple[StyleGan2, EdmTeacher]:
    return StyleGan2.load(assets.resolve("gan", "fashion16")), load_edm(assets.resolve("teacher", "fashion16"))


@pytest.mark.parametrize("architecture, layers", [("orig", 5), ("skip", 6), ("resnet", 5)])
def test_the_features_of_an_image_do_not_depend_on_its_batch(architecture, layers):
    features, batch = DiscriminatorFeatures(discriminator(architecture)), images(5)
    together = features(batch)
    assert len(together) == layers
    for number in range(5):
        for whole, alone in zip(together, features(batch[number : number + 1]), strict=True):
            torch.testing.assert_close(whole[number : number + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_last_features_are_those_of_the_discriminators_own_forward_pass():
    network = discriminator()
    found = []
    handle = network.b8.conv1.register_forward_hook(lambda module, given, output: found.append(output))
    network(images(4), None)
    handle.remove()
    torch.testing.assert_close(DiscriminatorFeatures(network)(images(4))[-1], found[0])


def test_the_distance_is_relative_and_its_gradient_goes_to_the_images_alone():
    features = DiscriminatorFeatures(discriminator())
    fake, target = images(4).requires_grad_(), images(4, seed=1)
    found = features.distance(fake, target)
    expected = torch.zeros(4)
    for a, b in zip(features(fake), features(target), strict=True):
        expected += (a - b).detach().square().sum([1, 2, 3]) / b.detach().square().sum([1, 2, 3]) / 5
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)
    found.sum().backward()
    assert fake.grad is not None and float(fake.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in features.parameters())
    assert features.distance(target, target).tolist() == [0.0] * 4


def test_the_pool_distance_is_in_pixels_and_features_or_in_pixels_alone_and_says_so():
    fake, target = images(3), images(3, seed=1)
    pixels = (fake - target).square().sum([1, 2, 3])
    teacher = GaussianTeacher(0.0, 1.0, SPEC)
    full = DiffInstructPerceptual(teacher, replace(QUICK, feature_weight=0.5), GanFile(discriminator))
    in_features = DiscriminatorFeatures(discriminator()).distance(fake, target)
    torch.testing.assert_close(full.pool_distance(fake, target), pixels + 0.5 * 256 * in_features)
    assert full.notices() == [] and full.frozen_modules() == [teacher, full.features]
    without = replace(QUICK, feature_weight=0.0)
    for options, gan, notices in [
        (QUICK, None, [NOTICE]),
        (QUICK, GanFile(), [NOTICE]),
        (QUICK, GanFile(lambda: discriminator(resolution=32)), [NOTICE]),
        (QUICK, GanFile(lambda: torch.nn.Linear(1, 1)), [NOTICE]),
        (without, GanFile(lambda: pytest.fail("the file's discriminator was built for nothing")), []),
    ]:
        objective = DiffInstructPerceptual(teacher, options, gan)
        torch.testing.assert_close(objective.pool_distance(fake, target), pixels)
        assert objective.notices() == notices and objective.frozen_modules() == [teacher]


def test_the_generators_gradient_over_a_pool_is_that_of_this_distance(pair):
    gan, teacher = pair
    objective = build_objective("di-perceptual,score_ema=0", teacher, GanFile(gan.discriminator))
    assert isinstance(objective, DiffInstructPerceptual) and objective.features is not None
    with torch.no_grad():
        for parameter in objective.score_model.parameters():
            parameter.mul_(1.01)
    state = RefineState(gan, objective, RefineOptions(batch=8, batch_gpu=4, pool_images=8, pool_euler_steps=1))
    batch = make_targets(state, 0)
    assert len(batch) == 2 and float((batch[0].images - gan(batch[0].latents)).detach().abs().max()) > 0.01
    target_gradient(state, batch)
    (first, *_), total = gan.parameters(), torch.zeros([])
    found = first.grad.clone()
    first.grad = None
    for latents, target in batch:
        total = total + objective.pool_distance(gan(latents), target).sum() / 8
    (expected,) = torch.autograd.grad(total, first)
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


def test_its_gradient_is_that_of_diff_instruct():
    teacher, gradients = GaussianTeacher(0.2, 0.5, SPEC), []
    plain = build_objective("diff-instruct,sigma_mean=-0.6,sigma_std=0.3", teacher)
    for objective in (DiffInstructPerceptual(teacher, QUICK), plain):
        assert isinstance(objective, DiffInstruct)
        objective.score_model.mean.data.fill_(0.5)
        gradients.append(gradient_at(objective, images(4))[0])
    assert torch.equal(*gradients) and float(gradients[0].abs().max()) > 0
