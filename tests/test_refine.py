"""The loop: reproducible, file-free, exact where nothing should move."""

import builtins
import io
import os
from dataclasses import replace

import pytest
import torch
from toys import Quadratic, small_unet

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator, StyleGan2
from gan_refine.interfaces import ImageSpec, Loss
from gan_refine.networks.stylegan2 import Generator
from gan_refine.noise import rng_for
from gan_refine.objectives import DiffInstruct
from gan_refine.refine import Health, RefineState, advance, lr_factor, refine
from gan_refine.teachers import EdmTeacher, GaussianTeacher

SHORT = RefineOptions(total_images=32, batch=8, batch_gpu=4, tick_images=16, ema_halflife_images=16, warmup_images=8)


def tiny_pair() -> tuple[StyleGan2, EdmTeacher]:
    torch.manual_seed(0)
    widths = {"channel_base": 128, "channel_max": 16}
    net = Generator(16, 0, 16, 8, 1, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=widths)
    return StyleGan2(net), EdmTeacher(small_unet(8, attn_resolutions=[4]))


def run(options: RefineOptions) -> dict[str, torch.Tensor]:
    generator, teacher = tiny_pair()
    *_, last = refine(generator, DiffInstruct(teacher), options)
    assert last.images == options.total_images
    return {**generator.state_dict(), **{f"ema.{k}": v for k, v in last.average.state_dict().items()}}


def test_same_seed_gives_the_same_bits_and_another_seed_does_not():
    first, second = run(SHORT), run(SHORT)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = run(replace(SHORT, seed=1))
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_generator_stays_bit_identical_while_score_model_equals_teacher():
    generator, teacher = tiny_pair()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    options = replace(SHORT, score_lr=0.0)
    *_, last = refine(generator, DiffInstruct(teacher), options)
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())
    assert last.health.remaining_nats() == 0


def test_generator_average_and_score_model_move_and_the_teacher_does_not():
    generator, teacher = tiny_pair()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    frozen = {name: value.clone() for name, value in teacher.state_dict().items()}
    objective = DiffInstruct(teacher)
    *_, last = refine(generator, objective, SHORT)
    for state in (generator.state_dict(), last.average.state_dict()):
        assert not torch.equal(before["net.synthesis.b8.conv1.weight"], state["net.synthesis.b8.conv1.weight"])
    assert all(torch.equal(frozen[name], value) for name, value in teacher.state_dict().items())
    moved = objective.score_model.state_dict()
    assert any(not torch.equal(frozen[name], moved[name]) for name in frozen)


def test_refine_opens_no_file(monkeypatch):
    """No data set, no image file: a watched `open` hears nothing while the loop runs."""
    generator, teacher = tiny_pair()
    steps = refine(generator, DiffInstruct(teacher), SHORT)
    next(steps)  # the first step may import lazily
    opened: list[object] = []
    for module in (builtins, io, os):
        original = module.open

        def watched(file, *args, original=original, **kwargs):
            opened.append(file)
            return original(file, *args, **kwargs)

        monkeypatch.setattr(module, "open", watched)
    progress = list(steps)
    with open(os.devnull):
        pass
    assert progress
    assert opened == [os.devnull]


class Broken(Quadratic):
    """Its second loss is NaN."""

    calls = 0

    def generator_loss(self, fake, labels, rng) -> Loss:
        self.calls += 1
        loss = super().generator_loss(fake, labels, rng)
        return Loss(loss.per_sample * float("nan"), loss.sigma, {}) if self.calls == 2 else loss


def affine() -> AffineGenerator:
    return AffineGenerator(0.5, 0.0, ImageSpec(1, 4))


def test_accumulated_gradients_equal_those_of_the_whole_batch():
    results = []
    for batch_gpu in (8, 2):
        generator = affine()
        options = replace(SHORT, batch_gpu=batch_gpu, glr=0.01)
        *_, last = refine(generator, Quadratic(), options)
        results.append([float(generator.scale.detach()), float(generator.shift.detach())])
        assert last.images == 32
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    assert results[0][1] > 0


def test_a_step_that_is_not_finite_is_skipped_and_counted():
    generator = affine()
    options = replace(SHORT, batch_gpu=8, tick_images=32)
    (progress,) = refine(generator, Broken(), options)
    assert progress.health.skipped_steps == 1
    assert progress.health.nonfinite_samples == 8
    assert bool(generator.shift.isfinite())


def test_health_sorts_figures_into_bands():
    health = Health()
    sigma = torch.tensor([0.03, 0.04, 1.0, 1000.0])
    health.add(Loss(torch.zeros(4), sigma, {"ratio": torch.tensor([1.0, 3.0, 5.0, 7.0])}))
    assert health.bands("ratio") == [2.0, None, None, 5.0, None, None, None]
    assert health.remaining_nats() is None


def test_the_score_model_lowers_its_loss_on_fakes():
    """After some steps the score model denoises fakes better than the teacher does."""
    generator = AffineGenerator(0.3, -0.5, ImageSpec(1, 2))
    objective = DiffInstruct(GaussianTeacher(0.5, 0.5, ImageSpec(1, 2)))
    sizes = {"total_images": 64 * 100, "batch": 64, "batch_gpu": 64, "tick_images": 64 * 50, "warmup_images": 0}
    options = replace(SHORT, **sizes, glr=0.0, score_lr=2e-2)
    *_, last = refine(generator, objective, options)
    score, teacher = (last.health.bands(name)[3] for name in ("score_loss", "teacher_loss"))
    assert score < teacher


def test_rates_rise_over_the_first_share_and_fall_over_the_last():
    assert lr_factor(0.0, 0.0, 0.5) == lr_factor(0.5, 0.1, 0.5) == 1.0
    assert lr_factor(0.05, 0.1, 0.5) == pytest.approx(0.5)
    assert lr_factor(0.75, 0.1, 0.5) == pytest.approx(0.5)
    assert lr_factor(1.0, 0.1, 0.5) == pytest.approx(0.0)
    assert lr_factor(1.0, 0.0, 0.0) == 1.0


def test_noise_depends_on_seed_rank_images_and_stream():
    draws = [
        torch.randn(3, generator=rng_for(*key))
        for key in [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 8, 0), (0, 0, 0, 1)]
    ]
    assert torch.equal(draws[0], torch.randn(3, generator=rng_for(0, 0, 0, 0)))
    assert all(not torch.equal(draws[0], other) for other in draws[1:])


def test_batch_must_be_a_multiple_of_batch_gpu():
    with pytest.raises(OptionError, match="--batch=10 is not a multiple of --batch-gpu=4"):
        RefineOptions(batch=10, batch_gpu=4)


def rates(**sizes: float) -> list[float]:
    """The generator's rate in each step, as a multiple of `glr`."""
    generator = affine()
    state = RefineState(generator, Quadratic(), replace(SHORT, lr_rampup=0.0, glr=0.01, **sizes))
    found, optimizer = [], state.optimizers["generator"]
    step = optimizer.step

    def recorded(rates: list[float], skip: torch.Tensor | None = None) -> None:
        found.append(rates[0] / 0.01)
        step(rates, skip)

    optimizer.step = recorded
    for _ in advance(state):
        pass
    return found


def test_without_a_rate_the_objective_gives_it_within_the_generators_limit():
    class Fast(Quadratic):
        default_lr = 0.02

    class Careful(AffineGenerator):
        max_default_lr = 0.005

    assert RefineState(affine(), Fast(), SHORT).glr == 0.02
    assert RefineState(affine(), Fast(), replace(SHORT, glr=0.3)).glr == 0.3
    assert RefineState(Careful(0.5, 0.0, ImageSpec(1, 4)), Fast(), SHORT).glr == 0.005


def test_the_rate_falls_to_zero_at_the_end_of_a_run():
    assert rates(total_images=8 * 4, lr_decay=0.5) == pytest.approx([1, 1, 0.5, 0])
    assert rates(total_images=8 * 4, lr_decay=0.0) == [1] * 4
