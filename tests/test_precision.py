"""Precision: of U-Nets as --precision says; of generators float32 for gradients, for other images as their file says."""

from collections.abc import Callable

import pytest
import torch
from toys import small_stylegan2, small_unet

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.evaluation import render
from gan_refine.generators import BridgeOptions, OneStep, PretrainedGenerator, bridge
from gan_refine.interfaces import ImageSpec
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.objectives import DiffInstruct, DiffInstructOptions
from gan_refine.precision import float32_products, resolve_precision
from gan_refine.refine import refine
from gan_refine.teachers import EdmTeacher, GaussianTeacher, in_precision

UNET = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
FAMILIES: dict[str, Callable[[], PretrainedGenerator]] = {
    "stylegan2": lambda: small_stylegan2(8, 0, 0.1, num_fp16_res=1),
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


def test_a_run_takes_float32_for_gradients_and_the_files_precision_for_all_else(generator, calls):
    options = RefineOptions(8, 4, 4, warmup_images=4, l2_images=0.1)
    objective = DiffInstruct(GaussianTeacher(0.0, 0.5, ImageSpec(1, 8)), DiffInstructOptions())
    for _ in refine(generator, objective, options):
        pass
    assert calls.count(SAMPLES) == 3, "the warm-up shows the score model samples, and each of two steps does"
    assert calls.count(GRADIENTS) == 4, "each of two steps makes images and the original's"
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_unet_alone_computes_in_the_precision_and_weights_stay_float32(precision: str) -> None:
    teacher = EdmTeacher(small_unet(8, use_fp16=True))
    trained = DiffInstruct(in_precision(teacher, precision))
    types: dict[str, set[torch.dtype]] = {"preconditioning": set(), "unet": set()}
    for denoiser in (trained.teacher, trained.score_model):
        assert isinstance(denoiser, EdmTeacher) and not denoiser.net.use_fp16
        denoiser.net.register_forward_hook(lambda net, given, out: types["preconditioning"].add(out.dtype))
        denoiser.net.model.enc["8x8_block0"].register_forward_hook(lambda net, given, out: types["unet"].add(out.dtype))
    fake, noise = torch.rand(4, 1, 8, 8, requires_grad=True), torch.Generator().manual_seed(0)
    losses = (
        trained.auxiliary_loss(fake.detach(), torch.zeros(4, 0), noise),
        trained.generator_loss(fake, torch.zeros(4, 0), noise),
    )
    sum(loss.per_sample.sum() for loss in losses).backward()
    expected = torch.bfloat16 if precision == "bf16" else torch.float32
    assert types == {"preconditioning": {torch.float32}, "unet": {expected}}
    weights = [*trained.score_model.parameters(), fake]
    assert {part.dtype for weight in weights for part in (weight, weight.grad)} == {torch.float32}
    theirs = zip(teacher.parameters(), trained.teacher.parameters(), strict=True)
    assert all(mine is shared for mine, shared in theirs), "no copy of the weights"
    assert not teacher.net.model._forward_pre_hooks, "samples and features are in float32"


def test_precision_is_resolved_by_the_hardware_and_refused_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [resolve_precision(text, "cpu") for text in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    with pytest.raises(OptionError, match="compute capability 8"):
        resolve_precision("tf32", "cpu")
    for capability, found in (((7, 5), "fp32"), ((9, 0), "tf32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert resolve_precision("auto", "cuda") == found
    with pytest.raises(OptionError, match="EDM's U-Nets"):
        in_precision(EdmTeacher(Unknown()), "bf16")


class Unknown(torch.nn.Module):
    """A trusted teacher of an unknown class."""

    img_channels, img_resolution, label_dim, sigma_min, sigma_max = 1, 8, 0, 0.002, 80.0

    def forward(self, noisy, sigma, labels):
        return noisy


def test_float32_products_are_restored() -> None:
    owner = torch.backends.cuda.matmul
    name = "fp32_precision" if hasattr(torch.backends.cudnn, "conv") else "allow_tf32"
    before = getattr(owner, name)
    with float32_products(tf32=True):
        inside = getattr(owner, name)
        with float32_products(tf32=False):
            assert getattr(owner, name) != inside
        assert getattr(owner, name) == inside
    assert getattr(owner, name) == before
