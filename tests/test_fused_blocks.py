"""The kernel of group norm and SiLU against plain PyTorch, and U-Nets with fused blocks against plain ones."""

import copy

import pytest
import torch

from gan_refine.fused_blocks import FusedUNetBlock, fuse_blocks, unfuse_blocks
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.edm_unet import UNetBlock
from gan_refine.teachers import EdmTeacher
from torch_utils import custom_ops
from torch_utils.ops import group_norm_silu as op

SHAPES = [(2, 8, 3, 5, 2), (1, 40, 9, 8, 10), (3, 4, 1, 1, 1)]  # n, c, h, w, groups


@pytest.fixture(autouse=True)
def kernels() -> None:
    if (reason := custom_ops.why_not("cpu")) is not None:
        pytest.skip(reason)


def tensors(n: int, c: int, h: int, w: int) -> tuple[torch.Tensor, ...]:
    x = torch.randn(n, c, h, w, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), *(torch.randn(n, c, dtype=torch.float64, requires_grad=True) for _ in range(3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("with_add", [True, False])
def test_kernel_agrees_with_plain_pytorch(shape: tuple[int, ...], silu: bool, with_add: bool) -> None:
    *size, groups = shape
    x, gamma, beta, add = tensors(*size)
    inputs = (x, gamma, beta, add) if with_add else (x, gamma, beta)
    weights = torch.randn_like(x)
    found = []
    for impl in ("cpu", "ref"):
        y = op.group_norm_silu(x, groups, gamma, beta, add if with_add else None, silu=silu, impl=impl)
        found.append([y, *torch.autograd.grad(y, inputs, weights)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_gradients_agree_with_finite_differences() -> None:
    x, gamma, beta, add = tensors(2, 4, 2, 3)
    assert torch.autograd.gradcheck(lambda *t: op.group_norm_silu(t[0], 2, *t[1:], impl="cpu"), (x, gamma, beta, add))


def test_a_large_mean_costs_no_digits() -> None:
    x = (1000 + torch.randn(2, 8, 16, 16)).contiguous(memory_format=torch.channels_last)
    one, zero = torch.ones(8), torch.zeros(8)
    exact = op.group_norm_silu(x.double(), 2, one.double(), zero.double(), impl="ref")
    ours = op.group_norm_silu(x, 2, one, zero, impl="cpu")
    assert (ours - exact).abs().max() < 2e-4


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x = torch.randn(4, 8, 16, 16).contiguous(memory_format=torch.channels_last)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(op.group_norm_silu(x, 2, torch.ones(8), torch.zeros(8), impl="cpu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@pytest.mark.parametrize("model", ["SongUNet", "DhariwalUNet"])
def test_fused_networks_agree_with_plain_ones(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
    net = EDMPrecond(8, 3, model_type=model, **sizes).double()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # the last convolutions of blocks start at zero
    monkeypatch.setattr(op, "MIN_ELEMENTS", 0)
    teacher = EdmTeacher(net)
    fused = teacher.trainable_copy()
    assert any(isinstance(module, FusedUNetBlock) for module in fused.modules())
    plain = copy.deepcopy(fused)
    unfuse_blocks(plain)
    assert not any(isinstance(module, FusedUNetBlock) for module in plain.modules())
    x, sigma = torch.randn(2, 3, 8, 8), torch.rand(2, 1, 1, 1)
    results = []
    for network in (fused, plain):
        # The preconditioning computes in float32; the U-Net itself is asked in float64.
        y = network.net.model(x.double().contiguous(memory_format=torch.channels_last), sigma.flatten().double())
        results.append([y, *torch.autograd.grad(y.square().sum(), list(network.parameters()), allow_unused=True)])
    for ours, theirs in zip(*results, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_fusing_twice_and_back_leaves_plain_blocks() -> None:
    net = torch.nn.ModuleList([UNetBlock(8, 8, 8)])
    fuse_blocks(net)
    fuse_blocks(net)
    assert type(net[0]) is FusedUNetBlock
    unfuse_blocks(net)
    assert type(net[0]) is UNetBlock
