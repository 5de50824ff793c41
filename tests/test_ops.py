"""torch_utils.ops against the published operations in float64, and their derivatives against finite differences.

Everything runs along the reference path and with the CPU kernels.
"""

import pytest
import torch
from golden_file import Golden, assert_close

from torch_utils import custom_ops
from torch_utils.ops import bias_act, conv2d_resample, fma, upfirdn2d

GOLDEN = Golden("ops")
RTOL = 1e-10
FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])


@pytest.fixture(params=["ref", "cpu"], autouse=True)
def impl(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "cpu" and (reason := custom_ops.why_not("cpu")) is not None:
        pytest.skip(reason)
    monkeypatch.setattr(custom_ops, "ENVIRONMENT_IMPL", request.param)


def cases(op: str) -> list[str]:
    found = [case for case in GOLDEN.meta if case.startswith(f"{op}/")]
    assert found, f"no golden case of {op}"
    return found


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("case", cases("upfirdn2d"))
def test_upfirdn2d_agrees_with_published(case: str) -> None:
    kwargs = dict(GOLDEN.meta[case])
    f = upfirdn2d.setup_filter(kwargs.pop("f"))
    assert_close(f, GOLDEN[f"{case}/f"], 1e-7, "filter")
    assert_close(upfirdn2d.upfirdn2d(GOLDEN[f"{case}/x"], f, **kwargs), GOLDEN[f"{case}/y"], RTOL, case)


@pytest.mark.parametrize("case", cases("bias_act"))
def test_bias_act_agrees_with_published(case: str) -> None:
    kwargs = dict(GOLDEN.meta[case])
    act = case.removeprefix("bias_act/")
    assert bias_act.activation_funcs[act].def_gain == pytest.approx(kwargs.pop("default_gain"))
    assert bias_act.activation_funcs[act].def_alpha == pytest.approx(kwargs.pop("default_alpha"))
    got = bias_act.bias_act(GOLDEN[f"{case}/x"], GOLDEN[f"{case}/b"], act=act, **kwargs)
    assert_close(got, GOLDEN[f"{case}/y"], RTOL, case)


@pytest.mark.parametrize("case", cases("conv2d_resample"))
def test_conv2d_resample_agrees_with_published(case: str) -> None:
    kwargs = dict(GOLDEN.meta[case])
    assert kwargs.pop("k") == GOLDEN[f"{case}/w"].shape[-1]
    f = upfirdn2d.setup_filter(kwargs.pop("f"))
    got = conv2d_resample.conv2d_resample(GOLDEN[f"{case}/x"], GOLDEN[f"{case}/w"], f=f, **kwargs)
    assert_close(got, GOLDEN[f"{case}/y"], RTOL, case)


def test_separable_filter_is_its_outer_product() -> None:
    taps = [1, 2, 5, 3]
    kept = upfirdn2d.setup_filter(taps, separable=True, gain=4)
    outer = upfirdn2d.setup_filter(taps, separable=False, gain=4)
    assert (kept.shape, outer.shape) == ((4,), (4, 4))
    x = random(2, 3, 7, 6)
    got = upfirdn2d.upfirdn2d(x, kept, up=2, down=3, padding=[3, 1, 2, 0])
    assert_close(got, upfirdn2d.upfirdn2d(x, outer, up=2, down=3, padding=[3, 1, 2, 0]), 1e-6)
    assert upfirdn2d.setup_filter([1] * 8).ndim == 1, "eight taps are kept separable unless told otherwise"


def test_resampling_keeps_size_and_brightness() -> None:
    flat = torch.full([1, 2, 8, 8], 0.7, dtype=torch.float64)
    for resample, size in [(upfirdn2d.upsample2d, 16), (upfirdn2d.downsample2d, 4), (upfirdn2d.filter2d, 8)]:
        got = resample(flat, FILTER)
        assert got.shape == (1, 2, size, size)
        inside = got[:, :, 2:-2, 2:-2] if size > 4 else got[:, :, 1:-1, 1:-1]
        assert_close(inside, torch.full_like(inside, 0.7), 1e-12, resample.__name__)


def test_no_filter_only_resamples() -> None:
    x = random(1, 1, 4, 4)
    assert torch.equal(upfirdn2d.upfirdn2d(x, None, up=2)[:, :, ::2, ::2], x)
    assert torch.equal(upfirdn2d.upfirdn2d(x, None, down=2, gain=3), 3 * x[:, :, ::2, ::2])


@pytest.mark.parametrize("up, down", [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("flip_weight", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv2d_resample_is_upsample_convolve_downsample(up: int, down: int, flip_weight: bool, kernel: int) -> None:
    """The shortcuts (transposed convolution, strides, order swapped) against the definition, in two groups."""
    x, w = random(2, 4, 8, 8), random(6, 2, kernel, kernel)
    kwargs = {"up": up, "down": down, "padding": kernel // 2, "flip_weight": flip_weight, "groups": 2}
    got = conv2d_resample.conv2d_resample(x, w, f=FILTER, **kwargs)
    pad = kernel // 2
    before = [pad + (4 + up - 1) // 2 * (up > 1) + (4 - down + 1) // 2 * (down > 1)]
    after = [pad + (4 - up) // 2 * (up > 1) + (4 - down) // 2 * (down > 1)]
    wide = upfirdn2d.upfirdn2d(x, FILTER if up > 1 else None, up=up, padding=(before + after) * 2, gain=up**2)
    if down > 1:
        wide = upfirdn2d.upfirdn2d(wide, FILTER)
    want = torch.nn.functional.conv2d(wide, w if flip_weight else w.flip([2, 3]), groups=2)[:, :, ::down, ::down]
    assert_close(got, want, 1e-6)


@pytest.mark.parametrize("act", sorted(bias_act.activation_funcs))
def test_bias_act_gradients(act: str) -> None:
    def call(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return bias_act.bias_act(x, b, act=act, gain=1.5, clamp=1.1)

    assert torch.autograd.gradcheck(call, [random(3, 4, 2), random(4)])
    assert torch.autograd.gradgradcheck(call, [random(3, 2, 2), random(2)])


def test_bias_act_dim_alpha_and_no_bias() -> None:
    x, b = random(2, 3, 4), random(4)
    assert_close(bias_act.bias_act(x, b, dim=2), x + b, RTOL)
    assert_close(bias_act.bias_act(x, act="lrelu", alpha=0.5, gain=1), torch.where(x > 0, x, 0.5 * x), RTOL)


def test_bias_act_refuses_what_it_cannot_do() -> None:
    with pytest.raises(KeyError):
        bias_act.bias_act(random(1, 2), act="nosuch")
    for bias in (random(1), random(3), random(2, 1)):
        with pytest.raises(ValueError, match="bias"):
            bias_act.bias_act(random(4, 2), bias)


def test_upfirdn2d_refuses_what_leaves_no_pixel() -> None:
    with pytest.raises(ValueError, match="nothing is left"):
        upfirdn2d.upfirdn2d(random(1, 1, 3, 3), FILTER)
    with pytest.raises(ValueError, match="images"):
        upfirdn2d.upfirdn2d(random(3, 3), FILTER)


def test_upfirdn2d_gradients() -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        return upfirdn2d.upfirdn2d(x, FILTER, up=[2, 1], down=[1, 3], padding=[-1, 2, 3, 1], gain=2)

    assert torch.autograd.gradcheck(call, [random(1, 2, 6, 5)])
    assert torch.autograd.gradgradcheck(call, [random(1, 2, 4, 4)])


@pytest.mark.parametrize("up, down", [(2, 1), (1, 2)])
def test_conv2d_resample_gradients(up: int, down: int) -> None:
    def call(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return conv2d_resample.conv2d_resample(x, w, f=FILTER, up=up, down=down, padding=1)

    assert torch.autograd.gradcheck(call, [random(1, 2, 4, 4), random(3, 2, 3, 3)])


def test_fma_broadcasts_and_differentiates() -> None:
    a, b, c = random(2, 3, 4, 4), random(2, 3, 1, 1), random(4, 4)
    assert_close(fma.fma(a, b, c), a * b + c, RTOL)
    assert torch.autograd.gradcheck(fma.fma, [a, b, c])
