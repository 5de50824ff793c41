"""--elastic and --keep-images: closed forms of both pulls, in both modes of the loop, and across an interruption."""

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import SMALL, assert_same_run, last_checkpoint, wait_for, write_pair
from toys import WithoutHelpers

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import AffineGenerator, StyleGan2
from gan_refine.interfaces import ImageSpec, Terms
from gan_refine.networks.stylegan2 import Generator
from gan_refine.objectives import Sds
from gan_refine.refine import RefineState, pool_batch, refine
from gan_refine.refine.gradients import generator_gradient, micro_batches, towards_pool
from gan_refine.teachers import GaussianTeacher

SPEC = ImageSpec(1, 4)
PIXELS = 16
LR = 0.01
OPTIONS = RefineOptions(
    total_images=80,
    batch=8,
    batch_gpu=4,
    tick_images=80,
    warmup_images=0,
    pool_images=0,
    glr=LR,
    lr_rampup=0.0,
    lr_decay=0.0,
    pool_step=3.0,
    pool_moves=1,
    pool_step_decay=0.0,
)
BOTH_MODES = pytest.mark.parametrize("pool_images", [0, 16])


class Objective(WithoutHelpers):
    """Lowers `scale` times the mean over pixels of a function of the images; no noise."""

    def __init__(self, function, scale: float = 1.0) -> None:
        super().__init__()
        self.function, self.scale = function, scale

    def generator_terms(self, fake, labels, rng) -> Terms:
        return Terms(self.scale * self.function(fake).flatten(1).mean(1), torch.ones(len(fake)), {})


def upwards() -> Objective:
    """A constant gradient: Adam's steps are those of its sign."""
    return Objective(lambda fake: -fake)


def nothing() -> Objective:
    return Objective(lambda fake: 0 * fake)


def to_one() -> Objective:
    return Objective(lambda fake: (fake - 1).square())


def affine() -> AffineGenerator:
    return AffineGenerator(0.5, 0.25, SPEC)


def shift_after(options: RefineOptions, objective: Objective | None = None) -> float:
    generator = affine()
    for _ in refine(generator, objective or upwards(), options):
        pass
    return float(generator.shift.detach()) - 0.25


@BOTH_MODES
@pytest.mark.parametrize("elastic", [3.0, 100.0])
def test_elastic_is_the_proximal_step_of_a_squared_distance(elastic, pool_images):
    """d <- (d + lr) / (1 + lr e) from 0, whose limit is 1 / e."""
    expected = 0.0
    for _ in range(10):
        expected = (expected + LR) / (1 + LR * elastic)
    # A pool's images lie far above the generator's, so that its gradient has one sign too.
    objective = Objective(lambda fake: -fake, scale=1e6) if pool_images else upwards()
    options = replace(OPTIONS, elastic=elastic, pool_images=pool_images)
    assert shift_after(options, objective) == pytest.approx(expected, rel=1e-3)
    assert shift_after(replace(options, total_images=8 * 1000), objective) == pytest.approx(1 / elastic, rel=1e-2)


@BOTH_MODES
@pytest.mark.parametrize("elastic", [1e20, 1e300])
def test_a_large_elastic_moves_no_bit(elastic, pool_images):
    torch.manual_seed(0)
    net = Generator(8, 0, 8, 8, 1, mapping_kwargs={"num_layers": 2}, synthesis_kwargs={"channel_base": 64})
    generator = StyleGan2(net)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    objective = Sds(GaussianTeacher(0.5, 0.1, ImageSpec(1, 8)))
    *_, last = refine(generator, objective, replace(OPTIONS, pool_images=pool_images, elastic=elastic))
    for module in (generator, last.average):
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert last.health.norms["generator"][0] > 0, "there was something to resist"


def test_elastic_follows_the_rate_of_each_part_and_of_each_step():
    def moved(train: str) -> float:
        torch.manual_seed(0)
        widths = {"channel_base": 64, "channel_max": 8}
        generator = StyleGan2(Generator(8, 0, 8, 8, 1, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=widths))
        state = RefineState(generator, nothing(), replace(OPTIONS, elastic=50.0, train=train))
        weight = generator.net.synthesis.b8.conv1.weight
        weight.data += 1.0
        start = weight.detach().clone()
        for group, multiple in zip(state.optimizers["generator"].param_groups, state.generator_multiples, strict=True):
            group["lr"] = LR * multiple
        state.pulls.draw_back(state.optimizers["generator"])
        return float((start - weight.detach()).mean())

    assert moved("all") == pytest.approx(0.5 / 1.5, rel=1e-5)
    assert moved("mapping,synthesis:0.1") == pytest.approx(0.05 / 1.05, rel=1e-5)
    assert moved("mapping") == 0


def strayed(options: RefineOptions) -> tuple[RefineState, AffineGenerator]:
    """A state whose generator has gone from 0.5 z + 0.25 to 0.8 z - 0.15 since it was made."""
    generator = affine()
    state = RefineState(generator, nothing(), options)
    generator.scale.data.fill_(0.8)
    generator.shift.data.fill_(-0.15)
    return state, generator


@BOTH_MODES
def test_the_gradient_of_kept_images_is_exact(pool_images):
    """d/da and d/db of the mean over the batch of k sum_pixels (0.3 z - 0.4)^2."""
    k = 0.7
    state, generator = strayed(replace(OPTIONS, keep_images=k, pool_images=pool_images))
    if pool_images:
        batch = pool_batch(state, images=0)
        assert all(torch.equal(part.target, generator(part.latents)) for part in batch), "the pull moves no target"
        towards_pool(state, batch)
        z = torch.cat([part.latents.z for part in batch])
    else:
        generator_gradient(state, images=0, stream=0)
        z = torch.cat([latents.z for latents, _ in micro_batches(state, 0, 0)])
    error = 0.3 * z - 0.4
    assert float(generator.scale.grad) == pytest.approx(float(2 * k / 8 * (z * error).sum()), rel=1e-5)
    assert float(generator.shift.grad) == pytest.approx(float(2 * k / 8 * error.sum()), rel=1e-5)
    assert all(parameter.grad is None for parameter in state.pulls.original.parameters())


def test_elastic_is_not_in_the_gradient():
    state, generator = strayed(replace(OPTIONS, elastic=10.0))
    generator_gradient(state, images=0, stream=0)
    assert float(generator.scale.grad) == float(generator.shift.grad) == 0


@pytest.mark.parametrize("k", [0.02, 1.0])
def test_kept_images_come_to_rest_at_the_minimum_of_both_losses_on_fresh_batches(k):
    """(x - 1)^2 / P + k (x - x_0)^2 is least at x = (1 + k P x_0) / (1 + k P) in every pixel."""
    options = replace(OPTIONS, total_images=8 * 600, keep_images=k, lr_decay=0.5)
    generator = affine()
    for _ in refine(generator, to_one(), options):
        pass
    share = k * PIXELS / (1 + k * PIXELS)
    found = float(generator.scale.detach()), float(generator.shift.detach())
    assert found == pytest.approx((share * 0.5, 1 - share + share * 0.25), abs=2e-3)


@pytest.mark.parametrize("k", [0.5, 4.0])
def test_kept_images_come_to_rest_at_the_minimum_of_both_losses_on_pools(k):
    """|G - (G - s 2 (G - 1) / P)|^2 and k |G - G_0|^2 pull alike where G = (2 s / P + k G_0) / (2 s / P + k)."""
    options = replace(OPTIONS, total_images=8 * 900, keep_images=k, lr_decay=0.5, pool_images=16, pool_step=8.0)
    generator = affine()
    for _ in refine(generator, to_one(), replace(options, pool_epochs=3)):
        pass
    found = float(generator.scale.detach()), float(generator.shift.detach())
    assert found == pytest.approx((k * 0.5 / (1 + k), (1 + k * 0.25) / (1 + k)), abs=5e-3)


@BOTH_MODES
def test_images_that_are_kept_by_a_large_weight_stay(pool_images):
    """Adam's steps have the size of its rate whatever the gradient: it quivers by a few of them and ends where it began."""
    objective = Objective(lambda fake: (fake - 1).square(), scale=PIXELS / 2)
    options = replace(OPTIONS, total_images=8 * 200, lr_decay=0.7, pool_images=pool_images)
    assert shift_after(options, objective) > 0.5
    assert abs(shift_after(replace(options, keep_images=1e6), objective)) < LR / 10


def test_the_same_noise_is_used_for_both_images():
    """While nothing has moved the pull is zero to the last bit, noise inputs and all."""
    torch.manual_seed(0)
    net = Generator(8, 3, 8, 8, 1, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
    for name, parameter in net.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(1.0)
    generator = StyleGan2(net)
    state = RefineState(generator, nothing(), replace(OPTIONS, keep_images=1.0))
    latents = generator.draw(4, torch.Generator().manual_seed(0))
    error = state.pulls.images_error(generator(latents), latents)
    assert error.tolist() == [0.0] * 4 and error.requires_grad
    other = replace(latents, noise_seed=latents.noise_seed + 1)
    assert float(state.pulls.images_error(generator(latents), other).detach().min()) > 0


def test_without_a_pull_no_copy_is_made():
    assert RefineState(affine(), nothing(), OPTIONS).pulls.original is None


@pytest.mark.parametrize("name", ["elastic", "keep_images"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_weights_that_are_no_weights(name, value):
    option = name.replace("_", "-")
    with pytest.raises(OptionError, match=f"--{option}={value} is not allowed; give a number of at least 0"):
        RefineOptions(**{name: value})


@pytest.mark.parametrize("mode", [[], ["--pool-kimg=0"]], ids=["pools", "alternation"])
def test_a_killed_run_is_pulled_to_the_file_and_not_to_its_checkpoint(mode, commands, tmp_path):
    pair = write_pair(tmp_path)
    pulled = [*pair, *SMALL, *mode, "--glr=0.01", "--elastic=20", "--keep-images=0.5", "--metrics=none", "--snap=1"]
    assert commands.run(*pulled, f"--outdir={tmp_path / 'whole'}").code == 0
    folder = tmp_path / "killed" / "00000-tiny"
    pid = commands.start(*pulled, f"--outdir={folder.parent}")
    wait_for(lambda: len(list(folder.glob("checkpoint-*.pt"))) > 1, lambda: Path(f"/proc/{pid}").exists())
    os.kill(pid, signal.SIGKILL)
    commands.end()
    assert last_checkpoint(folder)["state"]["counters"]["images"] < 240, "it was killed before its end"
    ended = commands.run(f"--resume={folder}")
    assert ended.code == 0, ended.stderr
    assert_same_run(folder, tmp_path / "whole" / "00000-tiny")
    refused = commands.run(f"--resume={folder}", "--elastic=2")
    assert refused.code == 2 and "elastic 20.0 (got 2.0)" in refused.stderr
