"""Diff-Instruct, an adversarial loss and Frechet distances together."""

import itertools
import math

import pytest
import torch
from toys import gradient_at, no_labels, rng, small_stylegan2, small_unet

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics.frechet import frechet_distance
from gan_refine.networks.stylegan2 import Discriminator
from gan_refine.objectives import DiffInstruct, DiGan, DiGanOptions, GanFile, build_objective, di_gan
from gan_refine.objectives.di_gan import discriminator_loss
from gan_refine.objectives.frechet_loss import ActivationFrechetLoss, PixelFrechetLoss, moments, power, transport
from gan_refine.refine import RefineState, advance, fingerprints, load_state, record_state, refine
from gan_refine.run.build import build
from gan_refine.run.options import RunOptions
from gan_refine.teachers import EdmTeacher, GaussianTeacher

SPEC = ImageSpec(channels=1, resolution=8)
FEW = {"samples": 64, "steps": 2, "window": 64, "start": 0.0}
MOMENTS = {"diff_instruct": 0.0, "adversarial": 0.0, "pixels": 1.0, "imagenet": 0.0}


@pytest.fixture(autouse=True)
def narrow_discriminators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(di_gan, "WIDTH", 16)


def vectors(n: int, d: int, seed: int) -> torch.Tensor:
    mixing = torch.randn([d, d], generator=rng(seed), dtype=torch.float64)
    return torch.randn([n, d], generator=rng(seed + 1), dtype=torch.float64) @ mixing + seed


def fingerprint(module: torch.nn.Module) -> list[float]:
    return [float(parameter.detach().double().sum()) for parameter in module.parameters()]


def test_the_transport_maps_one_covariance_to_the_other():
    (_, source), (_, target) = moments(vectors(200, 5, 1)), moments(vectors(200, 5, 2))
    matrix = transport(source, power(target, 0.5))
    assert torch.allclose(matrix, matrix.T, atol=1e-8)
    assert torch.allclose(matrix @ source @ matrix, target, rtol=1e-6, atol=1e-8)
    assert float(torch.linalg.eigvalsh(matrix)[0]) > 0


def test_the_gradient_is_that_of_the_frechet_distance():
    """By finite differences: d FD^2 / d f_i = 2 / n (f_i - T(f_i)), up to the n - 1 of the covariance."""
    loss, made = PixelFrechetLoss(), vectors(400, 3, 3)
    loss.mean, loss.covariance = moments(vectors(400, 3, 4))
    loss.push(made, 400)
    direction = torch.randn(made.shape, generator=rng(5), dtype=torch.float64)

    def distance(step: float) -> float:
        mean, covariance = moments(made + step * direction)
        return frechet_distance(mean, covariance, loss.mean, loss.covariance)

    slope = (distance(1e-5) - distance(-1e-5)) / 2e-5
    assert float((2 / 400 * loss.gradient(made) * direction).sum()) == pytest.approx(slope, rel=0.01)


def test_the_window_keeps_the_newest_and_no_number_that_is_not_finite():
    loss = PixelFrechetLoss()
    loss.mean = torch.full([2], 7.0, dtype=torch.float64)
    loss.push(torch.zeros([3, 2]), 4)
    loss.push(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]), 4)
    assert loss.window.tolist() == [[0, 0], [0, 0], [1, 2], [7, 7]]


@pytest.mark.parametrize(
    "weights, steps, tolerance",
    [
        (MOMENTS, 300, 0.05),
        ({"diff_instruct": 0.0, "pixels": 0.0, "imagenet": 0.0, "discriminator": "fresh"}, 60, 0.15),
    ],
    ids=["moments", "adversarial"],
)
def test_the_mean_comes_to_the_teachers(weights, steps, tolerance):
    objective = DiGan(GaussianTeacher(0.3, 0.25, SPEC), DiGanOptions(samples=1024, steps=20, window=256, **weights))
    generator = AffineGenerator(scale=0.25, shift=-0.2, spec=SPEC)
    sizes = {"total_images": 16 * steps, "batch": 16, "batch_gpu": 16, "tick_images": 16 * steps, "warmup_images": 256}
    *_, last = refine(generator, objective, RefineOptions(glr=1.2 / steps, ema_halflife_images=160, **sizes))
    assert float(last.average.shift) == pytest.approx(0.3, abs=tolerance)


def test_alone_diff_instruct_is_diff_instruct():
    teacher, fake = EdmTeacher(small_unet(8)), torch.randn([4, 1, 8, 8], generator=rng())
    objective = DiGan(teacher, DiGanOptions(adversarial=0, pixels=0, **FEW))
    plain = DiffInstruct(teacher)
    for each in (objective.diff_instruct, plain):
        for number, parameter in enumerate(each.score_model.parameters()):
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=rng(number)))
    objective.give_samples(torch.zeros([64, 1, 8, 8], dtype=torch.uint8), no_labels(64))
    first, _ = gradient_at(objective, fake)
    assert torch.count_nonzero(first) == 0, "the first step measures"
    objective.generator_stepped(4)
    found, expected = gradient_at(objective, fake)[0], gradient_at(plain, fake)[0]
    torch.testing.assert_close(found, expected / expected.square().flatten(1).sum(1).mean().sqrt())


def test_every_gradient_gets_the_size_that_its_weight_says():
    torch.manual_seed(0)
    weights = {"diff_instruct": 1.0, "adversarial": 2.0, "pixels": 0.5, "activations": 4.0, "imagenet": 3.0}
    objective = DiGan(EdmTeacher(small_unet(8)), DiGanOptions(discriminator="fresh", **weights, **FEW))
    for parameter in objective.diff_instruct.score_model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    for _ in range(2):
        fake = torch.randn([64, 1, 8, 8], requires_grad=True)
        objective.generator_loss(fake, no_labels(64), rng())
        objective.generator_stepped(64)
    norms = torch.cat([objective.score_norms.mean(0), objective.squared_norms.mean(0)])
    sizes = objective._scales() * norms.sqrt()
    torch.testing.assert_close(sizes, torch.tensor(list(weights.values())))


def test_samples_are_those_of_the_teacher_and_are_made_once():
    def made() -> DiGan:
        found = DiGan(GaussianTeacher(0.5, 0.25, SPEC), DiGanOptions(samples=64, steps=40, window=8))
        assert len(found.samples) == 0, "none before the first step"
        found.auxiliary_loss(torch.randn([4, 1, 8, 8]), no_labels(4), rng())
        return found

    objective = made()
    first = objective.samples
    pixels = first / 127.5 - 1
    assert first.shape == (64, 1, 8, 8) and float(pixels.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(pixels.std()) == pytest.approx(0.25, rel=0.1)
    objective.auxiliary_loss(torch.randn([4, 1, 8, 8]), no_labels(4), rng(1))
    assert objective.samples is first
    assert torch.equal(made().samples, first), "on every process alike"


def test_the_generators_step_leaves_no_gradient_on_the_other_networks():
    options = DiGanOptions(discriminator="fresh", **FEW)
    objective = DiGan(EdmTeacher(small_unet(8)), options)
    fake = torch.randn([4, 1, 8, 8], requires_grad=True)
    objective.generator_loss(fake, no_labels(4), rng())
    objective.generator_stepped(4)
    objective.generator_loss(fake, no_labels(4), rng()).per_sample.sum().backward()
    assert fake.grad is not None and fake.grad.abs().sum() > 0
    groups = objective.auxiliary_groups()
    assert [group.lr for group in groups] == [2e-3, None]
    assert all(parameter.grad is None for group in groups for parameter in group.parameters)
    objective.auxiliary_loss(fake.detach(), no_labels(4), rng()).per_sample.sum().backward()
    for group in groups:
        assert sum(float(p.grad.abs().sum()) for p in group.parameters if p.grad is not None) > 0


def test_without_a_discriminator_the_activations_are_matched():
    teacher = EdmTeacher(small_unet(8))
    objective = build_objective("di-gan", teacher)
    assert objective.weights == [1.0, 0.5, 1.0, 3.0] and objective.discriminator is None
    assert objective.auxiliary_steps == 1, "of the score model"
    assert "activations are matched instead" in objective.notices()[0]
    given = Discriminator(0, 8, 1, "orig", 64, 8)
    objective = build_objective("di-gan", teacher, GanFile(lambda: given))
    assert objective.weights == [1.0, 1.0, 0.5, 3.0] and objective.discriminator is given and objective.notices() == []
    assert objective.auxiliary_steps == 2


@pytest.mark.parametrize("on_gpu", [False, True])
def test_a_step_that_is_not_finite_leaves_no_trace(on_gpu, monkeypatch):
    """In the steps that measure the gradients: the next ones move the generator again."""
    monkeypatch.setattr(RefineState, "on_gpu", on_gpu)  # where steps are skipped by the fused optimizer
    objective = DiGan(EdmTeacher(small_unet(8)), DiGanOptions(discriminator="fresh", **FEW))
    sizes = {"total_images": 96, "batch": 16, "batch_gpu": 8, "tick_images": 96, "warmup_images": 64, "lr_decay": 0.0}
    state = RefineState(small_stylegan2(8, 0, 0.1), objective, RefineOptions(glr=1e-3, **sizes))
    whole, calls = objective.diff_instruct.generator_loss, []

    def broken(*given):
        loss = whole(*given)
        calls.append(None)
        return type(loss)(loss.per_sample * (torch.nan if len(calls) == 5 else 1), loss.sigma, loss.logs)

    objective.diff_instruct.generator_loss = broken
    seen = []
    for _ in advance(state):
        weights = state.generator.net.synthesis.b8.conv1.weight
        if state.images:
            seen.append(weights.detach().clone())
    moved = [not torch.equal(before, after) for before, after in itertools.pairwise(seen)]
    assert moved == [True, False, True, True, True], "images 33 to 48 are skipped"
    assert bool(objective._scales().isfinite().all())


def test_diff_instruct_begins_late_and_its_score_model_a_little_earlier():
    objective = DiGan(EdmTeacher(small_unet(8)), DiGanOptions(discriminator="fresh", **(FEW | {"start": 0.5})))
    assert objective.phase_starts == (0, 0.4, 0.5)
    sizes = {
        "total_images": 160,
        "batch": 16,
        "batch_gpu": 16,
        "tick_images": 160,
        "warmup_images": 64,
        "lr_decay": 0.0,
    }
    state = RefineState(small_stylegan2(8, 0, 0.1), objective, RefineOptions(glr=1e-3, **sizes))
    learned, acted, before = [], [], fingerprint(objective.diff_instruct.score_model)
    for _ in advance(state):
        now = fingerprint(objective.diff_instruct.score_model)
        learned.append(now != before)
        acted.append(len(objective.score_norms))
        before = now
    warmup = 4
    assert learned == [False] * (warmup + 4) + [True] * 6
    assert acted == [0] * (warmup + 5) + [1, 2, 3, 4, 5]
    alone = DiGan(EdmTeacher(small_unet(8)), DiGanOptions(**(FEW | {"start": 0.5})))
    assert alone.discriminator is None and alone.start == 0 and alone.phase_starts == (0.0,)


def test_a_batch_that_the_discriminator_cannot_divide_is_refused(pair):
    objective = DiGan(EdmTeacher(small_unet(8)), DiGanOptions(discriminator="fresh", **FEW))
    assert [objective.accepts_batch(size) for size in (1, 3, 4, 6, 8)] == [True, True, True, False, True]
    gan, teacher = (argument.partition("=")[2] for argument in pair)
    with pytest.raises(OptionError, match="--batch-gpu=6 is not a multiple of 4"):
        build(RunOptions(gan=gan, teacher=teacher, metrics="none", refine=RefineOptions(batch=6, batch_gpu=6)))


def test_many_activations_are_projected_in_units_of_their_deviations():
    torch.manual_seed(0)
    loss = ActivationFrechetLoss(EdmTeacher(small_unet(8, model_channels=64)))
    loss.set_reference(torch.randint(256, [50, 1, 8, 8], dtype=torch.uint8), rng())
    assert len(loss.deviations) > 192
    assert loss.mean.shape == (192,) and loss.covariance.shape == (192, 192)


def test_a_run_goes_on_from_its_checkpoint_as_if_it_had_not_stopped():
    def state() -> RefineState:
        torch.manual_seed(0)
        options = DiGanOptions(discriminator="fresh", activations=1.0, **(FEW | {"start": 0.5}))
        sizes = {"total_images": 64, "batch": 16, "batch_gpu": 8, "tick_images": 64, "warmup_images": 64}
        objective = DiGan(EdmTeacher(small_unet(8)), options)
        return RefineState(small_stylegan2(8, 0, 0.1), objective, RefineOptions(glr=1e-3, **sizes))

    whole, first = state(), state()
    for _ in advance(whole):
        pass
    for _, _ in zip(range(6), advance(first), strict=False):
        pass
    second = state()
    load_state(second, record_state(first))
    for _ in advance(second):
        pass
    assert fingerprints(second) == fingerprints(whole)
    assert len(second.objective.squared_norms) > 0 and len(second.objective.score_norms) > 0


@pytest.mark.parametrize("relativistic", [True, False])
def test_a_discriminator_learns_to_tell_and_the_penalty_is_a_squared_gradient(relativistic: bool) -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(0, 8, 1, "orig", 64, 8)
    fake, real = torch.randn(16, 1, 8, 8) * 0.1, torch.randn(16, 1, 8, 8) * 0.1 + 0.3
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=4e-3, betas=(0.0, 0.99))

    def loss(r1_gamma: float = 0.0) -> torch.Tensor:
        return discriminator_loss(discriminator, real, fake, None, None, r1_gamma, relativistic)

    before = loss().mean().item()
    for _ in range(15):
        optimizer.zero_grad()
        loss().mean().backward()
        optimizer.step()
    assert loss().mean().item() < 0.8 * before
    r1, r2 = (0.1 * 16 * squared_slopes(discriminator, images) for images in (real, fake))
    torch.testing.assert_close(loss(0.2) - loss(), r1 + r2 if relativistic else r1, rtol=1e-4, atol=1e-5)


def squared_slopes(discriminator: Discriminator, images: torch.Tensor) -> torch.Tensor:
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(leaf, None).sum(), leaf)
    return slope.square().flatten(1).sum(1)


class Spy(torch.nn.Module):
    """A discriminator that remembers what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.Tensor, torch.Tensor | None]] = []

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        self.seen.append((images, labels))
        return images.flatten(1).mean(1, keepdim=True)


def test_logits_are_compared_in_pairs() -> None:
    real, fake = (torch.tensor(values).reshape(3, 1, 1, 1) for values in ([300.0, 400.0, 500.0], [300.0, 200.0, 800.0]))
    loss = discriminator_loss(Spy(), real, fake, None, None, 0.0, relativistic=True)
    torch.testing.assert_close(loss, torch.tensor([math.log(2), 0.0, 300.0]))
    one_by_one = discriminator_loss(Spy(), real, fake, None, None, 0.0, relativistic=False)
    torch.testing.assert_close(one_by_one, torch.tensor([300.0, 200.0, 800.0]))


def test_an_image_is_compared_with_a_sample_of_its_class():
    options = DiGanOptions(discriminator="fresh", samples=64, diff_instruct=0.0, pixels=0.0, imagenet=0.0)
    objective = DiGan(EdmTeacher(small_unet(8, classes=3)), options)
    objective.discriminator = spy = Spy()
    classes, one_hot = torch.arange(64) % 3, torch.eye(3)
    shades = (classes * 100).to(torch.uint8).reshape(64, 1, 1, 1).expand(64, 1, 8, 8)
    objective.give_samples(shades, one_hot[classes])
    wanted = torch.tensor([2, 0, 1, 1, 2] * 20)
    objective.auxiliary_loss(torch.zeros(100, 1, 8, 8), one_hot[wanted], rng(0))
    objective.generator_loss(torch.zeros(100, 1, 8, 8), one_hot[wanted], rng(0))
    (real, real_labels), (_, fake_labels), (_, generator_labels), (again, again_labels) = spy.seen
    for images in (real, again):
        torch.testing.assert_close(images.detach()[:, 0, 0, 0], wanted * 100 / 127.5 - 1)
    for labels in (real_labels, fake_labels, again_labels, generator_labels):
        assert labels is not None and torch.equal(labels, one_hot[wanted])
    objective.generator_stepped(100)
    fake = torch.zeros(100, 1, 8, 8, requires_grad=True)
    loss = objective.generator_loss(fake, one_hot[wanted], rng(1)).per_sample
    slopes = torch.autograd.grad(loss.sum(), fake)[0].flatten(1).sum(1)
    expected = torch.sigmoid(wanted * 100 / 127.5 - 1)  # of -softplus(D(y) - D(x)) at D(x) = 0
    assert float(slopes[0]) < 0, "images become more real than their samples"
    torch.testing.assert_close(slopes / slopes[0], expected / expected[0])
