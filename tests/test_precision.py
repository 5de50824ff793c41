"""Half precision: gradients are computed in float32; all images that need none, as the generator's file says."""

from collections.abc import Callable

import pytest
import torch
from toys import small_stylegan2

from gan_refine.config import RefineOptions
from gan_refine.evaluation import render
from gan_refine.generators import BridgeOptions, OneStep, PretrainedGenerator, bridge
from gan_refine.interfaces import ImageSpec
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.objectives import DiffInstruct, DiffInstructOptions
from gan_refine.refine import refine
from gan_refine.teachers import GaussianTeacher

UNET = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
FAMILIES: dict[str, Callable[[], PretrainedGenerator]] = {
    "stylegan2": lambda: small_stylegan2(8, 0, 0.1, num_fp16_res=1, channel_base=64, channel_max=8),
    "one-step": lambda: OneStep(EDMPrecond(8, 1, use_fp16=True, **UNET), 2.5),
}
GRADIENTS, SAMPLES = (True, True), (False, False)

Calls = list[tuple[bool, bool]]


@pytest.fixture(params=FAMILIES)
def generator(request: pytest.FixtureRequest) -> PretrainedGenerator:
    return FAMILIES[request.param]()


@pytest.fixture
def calls(generator: PretrainedGenerator) -> Calls:
    """(force_fp32, whether gradients are recorded) of every call of the network, of its copies' networks too."""
    found: Calls = []

    def hook(net: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        found.append((kwargs["force_fp32"], torch.is_grad_enabled()))

    generator.net.register_forward_pre_hook(hook, with_kwargs=True)
    return found


@pytest.mark.parametrize("pool_images", [0, 4])
def test_a_run_takes_float32_for_gradients_and_the_files_precision_for_all_else(generator, calls, pool_images):
    options = RefineOptions(8, 4, 4, warmup_images=4, pool_images=pool_images, pool_epochs=1, l2_images=0.1)
    objective = DiffInstruct(GaussianTeacher(0.0, 0.5, ImageSpec(1, 8)), DiffInstructOptions())
    for _ in refine(generator, objective, options):
        pass
    # The warm-up shows the score model samples; without pools every step shows it some more.
    assert calls.count(SAMPLES) == (2 if pool_images else 3)
    # Each of two steps makes images and the original's; with pools so do their two targets.
    assert calls.count(GRADIENTS) == (6 if pool_images else 4)
    assert set(calls) == {GRADIENTS, SAMPLES}


def test_evaluation_takes_the_files_precision(generator, calls):
    render(generator, generator.draw(2, torch.Generator()))
    assert calls == [SAMPLES]


def test_a_bridge_passes_it_on_to_the_generator_and_its_original(generator, calls):
    bridged = bridge(generator, ImageSpec(1, 4), BridgeOptions())
    latents = bridged.draw(2, torch.Generator())
    bridged.forward_regularized(latents)
    bridged.forward_fp32(latents)
    assert calls == [GRADIENTS] * 3
    calls.clear()
    bridged.change(latents)
    render(bridged, latents)
    assert calls == [SAMPLES] * 3


def test_on_the_cpu_both_are_float32(generator):
    latents = generator.draw(2, torch.Generator())
    assert torch.equal(generator(latents), generator.forward_fp32(latents))
