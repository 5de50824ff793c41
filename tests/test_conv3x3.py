"""The kernel of 3x3 convolutions against PyTorch's in float64, its derivatives, and networks that use it."""

import copy

import pytest
import torch
import torch.nn.functional as F

from gan_refine.fused_blocks import FastConv2d, fuse_blocks, unfuse_blocks
from gan_refine.networks.edm_unet import Conv2d
from gan_refine.networks.stylegan2 import Discriminator, SynthesisLayer, modulated_conv2d
from torch_utils import custom_ops
from torch_utils.ops import conv3x3 as op

SHAPES = [(1, 32, 64, 4, 4), (3, 64, 32, 8, 12), (5, 96, 96, 16, 4), (2, 160, 32, 12, 20)]  # n, c, k, h, w


@pytest.fixture(autouse=True)
def kernels() -> None:
    if (reason := custom_ops.why_not("cpu")) is not None:
        pytest.skip(reason)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).contiguous(memory_format=torch.channels_last)


def case(n: int, c: int, k: int, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return images(n, c, h, w), torch.randn(k, c, 3, 3) / (3 * c**0.5), torch.randn(k)


def error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(((found - exact).norm() / exact.norm()).detach())


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_agree_with_float64(shape: tuple[int, ...]) -> None:
    inputs = [tensor.requires_grad_() for tensor in case(*shape)]
    y = op.conv3x3(*inputs, impl="cpu")
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    exact = F.conv2d(*exact_inputs, padding=1)
    assert y.shape == exact.shape and y.is_contiguous(memory_format=torch.channels_last)
    assert error(y, exact) < 3e-6
    weights = torch.randn(y.shape)
    ours = torch.autograd.grad(y, inputs, weights)
    theirs = torch.autograd.grad(exact, exact_inputs, weights.double())
    for found, wanted in zip(ours, theirs, strict=True):
        assert found.shape == wanted.shape
        assert error(found, wanted) < 1e-5


def test_second_derivatives_agree_with_float64() -> None:
    found = []
    for dtype, impl in ((torch.float32, "cpu"), (torch.float64, "ref")):
        torch.manual_seed(0)
        x, weight, _ = (tensor.to(dtype).requires_grad_() for tensor in case(2, 32, 32, 8, 8))
        y = op.conv3x3(x, weight, impl=impl)
        first = torch.autograd.grad(y.square().sum(), (x, weight), create_graph=True)
        loss = sum(gradient.pow(3).mean() for gradient in first)
        found.append([*first, *torch.autograd.grad(loss, (x, weight))])
    for ours, exact in zip(*found, strict=True):
        assert error(ours, exact) < 1e-5


def test_edges_see_zeros_and_nothing_of_their_neighbors() -> None:
    x = torch.zeros(2, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    x[0, 3, 7, 7] = x[1, 5, 0, 0] = 1
    weight = torch.randn(32, 32, 3, 3)
    y = op.conv3x3(x, weight, impl="cpu")
    exact = F.conv2d(x, weight, padding=1)
    torch.testing.assert_close(y, exact, rtol=1e-5, atol=1e-5)
    assert (y[exact == 0].abs() < 1e-5).all()


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x, weight, bias = case(8, 96, 64, 16, 16)
    weight.requires_grad_()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = op.conv3x3(x, weight, bias, impl="cpu")
            results.append((y, *torch.autograd.grad(y.sin().sum(), weight)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


@pytest.mark.parametrize(
    "x, weight",
    [
        (images(64, 32, 6, 8), torch.randn(32, 32, 3, 3)),  # a side of 6
        (images(64, 8, 8, 8), torch.randn(32, 8, 3, 3)),
        (images(64, 32, 8, 8), torch.randn(8, 32, 3, 3)),
        (images(64, 32, 8, 8), torch.randn(32, 32, 1, 1)),
        (images(24, 4128, 4, 4), torch.randn(32, 4128, 3, 3)),
        (torch.randn(64, 32, 8, 8), torch.randn(32, 32, 3, 3)),  # channels first
        (images(64, 32, 8, 8).double(), torch.randn(32, 32, 3, 3).double()),
    ],
)
def test_what_the_kernel_does_not_take_is_left_to_pytorch(x: torch.Tensor, weight: torch.Tensor) -> None:
    assert not op.is_fast(x, weight)
    with pytest.raises(ValueError, match="the kernel does not take images"):
        op.conv3x3(x, weight, impl="cpu")
    if weight.shape[-1] == 3:
        assert torch.equal(op.conv3x3(x, weight), F.conv2d(x, weight, padding=1))


def test_few_tiles_are_left_to_pytorch_and_many_are_not() -> None:
    weight = torch.randn(32, 32, 3, 3)
    assert not op.is_fast(images(op.MIN_TILES - 1, 32, 4, 4), weight)
    assert op.is_fast(images(op.MIN_TILES, 32, 4, 4), weight)


@pytest.mark.parametrize("arguments", [{}, {"up": True}, {"down": True}, {"bias": False}])
def test_a_fast_convolution_agrees_with_the_plain_one(arguments: dict[str, bool]) -> None:
    plain = Conv2d(32, 32, kernel=3, **arguments)
    fast = copy.deepcopy(plain)
    fuse_blocks(fast)
    assert type(fast) is FastConv2d
    x = images(24, 32, 8, 8)
    assert error(fast(x), plain.double()(x.double())) < 3e-6
    unfuse_blocks(fast)
    assert type(fast) is Conv2d


@pytest.mark.parametrize("up", [1, 2])
def test_styled_layers_take_the_kernel_and_keep_its_layout(up: int) -> None:
    torch.manual_seed(0)
    layer = SynthesisLayer(32, 32, w_dim=16, resolution=8, up=up)
    torch.nn.init.constant_(layer.noise_strength, 0.1)
    x, w = torch.randn(24, 32, 8 // up, 8 // up), torch.randn(24, 16)
    exact = copy.deepcopy(layer).double()(x.double(), w.double(), noise_mode="const")
    found = layer(x, w, noise_mode="const")
    assert error(found, exact) < 3e-6
    if up == 1:
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert error(layer(images(*x.shape).copy_(x), w, noise_mode="const"), exact) < 3e-6


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_missing_channels_are_filled_where_they_are_few(layout: torch.memory_format) -> None:
    weight = torch.randn(32, 65, 3, 3)
    x = torch.randn(24, 65, 4, 4).contiguous(memory_format=layout)
    prepared = op.prepare(x, weight)
    assert prepared is not None and op.is_fast(*prepared)
    assert prepared[0].shape[1] - 65 == -65 % op._multiple()
    assert error(op.conv3x3(*prepared), F.conv2d(x.double(), weight.double(), padding=1)) < 3e-6
    assert op.prepare(x[:, :8], weight[:, :8]) is None, "half of the work and more would be of zeros"
    assert op.prepare(x[:2], weight) is None, "two tiles"


def test_penalties_of_a_discriminator_agree_with_float64() -> None:
    torch.manual_seed(0)
    net = Discriminator(
        c_dim=0, img_resolution=8, img_channels=3, channel_base=256, channel_max=32
    )  # ends with 33 channels
    x, found = torch.randn(24, 3, 8, 8), []
    for each in (net, copy.deepcopy(net).double()):
        inputs = x.to(next(each.parameters()).dtype).requires_grad_()
        (slope,) = torch.autograd.grad(each(inputs, None).sum(), inputs, create_graph=True)
        found.append([slope, *torch.autograd.grad(slope.square().sum(), each.b8.conv0.weight)])
    assert all(error(ours, exact) < 1e-5 for ours, exact in zip(*found, strict=True))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pointwise_layers_are_the_same_with_scaled_weights(layout: torch.memory_format) -> None:
    x, weight, styles = torch.randn(3, 8, 4, 6), torch.randn(2, 8, 1, 1), torch.randn(3, 8)
    x = x.contiguous(memory_format=layout)
    merged, scaled = (modulated_conv2d(x, weight, styles, fused=fused) for fused in (True, False))
    torch.testing.assert_close(merged, scaled)
