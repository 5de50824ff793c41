"""The CPU kernels against the reference path on whatever hypothesis thinks of, and as operations of torch.library."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torch_utils import custom_ops
from torch_utils.ops import bias_act, conv2d_resample, upfirdn2d

DTYPES = sorted(custom_ops.SUPPORTED["cpu"], key=str)
FILTER = upfirdn2d.setup_filter([1, 3, 3, 1])
OPS = torch.ops.torch_utils
LRELU = list(bias_act.activation_funcs).index("lrelu")

Layout = st.sampled_from(["contiguous", "channels_last", "every second", "transposed", "expanded"])


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """Built in the first test and not when tests are collected, where every worker would wait for it."""
    if (reason := custom_ops.why_not("cpu")) is not None:
        pytest.skip(f"CPU kernels: {reason}")


def laid_out(shape: tuple[int, int, int, int], layout: str, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Normal random numbers of this shape with these strides."""
    n, c, h, w = shape
    rng = torch.Generator().manual_seed(seed)
    if layout == "every second":
        return torch.randn([n, c, 2 * h, 2 * w], generator=rng).to(dtype)[:, :, ::2, ::2]
    if layout == "transposed":
        return torch.randn([n, c, w, h], generator=rng).to(dtype).transpose(2, 3)
    if layout == "expanded":
        return torch.randn([1, c, h, w], generator=rng).to(dtype).expand(n, -1, -1, -1)
    x = torch.randn(shape, generator=rng).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else x


def assert_within(got: torch.Tensor, want: torch.Tensor, scale: float, terms: int) -> None:
    """`terms` roundings of numbers up to `scale`, in the precision that is computed with, and one in that of the result."""
    computed = torch.float64 if got.dtype == torch.float64 else torch.float32
    allowed = scale * (terms * torch.finfo(computed).eps + torch.finfo(got.dtype).eps)
    error = (got.double() - want).abs().max().item() if got.numel() else 0.0
    assert error <= allowed, f"an error of {error:.2e}, allowed are {allowed:.2e}"


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    layout=Layout,
    dtype=st.sampled_from(DTYPES),
    act=st.sampled_from(sorted(bias_act.activation_funcs)),
    options=st.tuples(
        st.none() | st.floats(-2, 2), st.none() | st.floats(-3, 3), st.none() | st.floats(0, 2), st.booleans()
    ),
    dim=st.integers(-4, 3),
    seed=st.integers(0, 2**31),
)
def test_bias_act_agrees_with_reference(shape, layout, dtype, act, options, dim, seed) -> None:
    """Value and gradients, computed by the reference path in float64 from the same numbers."""
    alpha, gain, clamp, biased = options
    x = laid_out(shape, layout, dtype, seed).requires_grad_()
    b = torch.linspace(-1, 1, x.shape[dim]).to(dtype).requires_grad_() if biased else None
    kwargs = {"dim": dim, "act": act, "alpha": alpha, "gain": gain, "clamp": clamp}
    got = bias_act.bias_act(x, b, impl="cpu", **kwargs)
    exact = [None if tensor is None else tensor.detach().double().requires_grad_() for tensor in (x, b)]
    want = bias_act.bias_act(*exact, impl="ref", **kwargs)
    assert got.dtype == dtype and got.shape == x.shape
    scale = 6 * (1 + (x.abs().max().item() if x.numel() else 0) ** 2)
    assert_within(got, want, scale, 16)
    if dtype != torch.bfloat16:  # whose rounding of x + b decides on which side of a kink or limit a number falls
        wanted = [tensor for tensor in (x, b) if tensor is not None]
        cotangent = torch.linspace(-1, 1, got.numel()).reshape(got.shape)
        grads = torch.autograd.grad(got, wanted, cotangent.to(dtype))
        exact_grads = torch.autograd.grad(want, [t for t in exact if t is not None], cotangent.to(dtype).double())
        away = kinks(x, b, dim, want, clamp)
        assert_within(torch.where(away, grads[0], 0), torch.where(away, exact_grads[0], 0), scale, 32)
        if b is not None and away.all():
            assert_within(grads[1], exact_grads[1], scale * max(x.numel(), 1), 32)


def kinks(x: torch.Tensor, b: torch.Tensor | None, dim: int, y: torch.Tensor, clamp: float | None) -> torch.Tensor:
    """True where rounding cannot decide which branch is taken."""
    z = bias_act.bias_act(x.detach().double(), None if b is None else b.detach().double(), dim=dim, impl="ref")
    away = z.abs() > 1e-5
    return away if clamp is None else away & ((y.abs() - clamp).abs() > 1e-5)


pads = st.tuples(*[st.integers(-3, 9)] * 4)


@settings(max_examples=200, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)),
    layout=Layout,
    dtype=st.sampled_from(DTYPES),
    taps=st.sampled_from([(4, 4), (4,), (1,), (3, 1), (2, 5), (12,), None]),
    stylegan=st.booleans(),
    factors=st.tuples(*[st.integers(1, 4)] * 4),
    padding=pads,
    flip=st.booleans(),
    gain=st.integers(-40, 40).map(lambda tenths: tenths / 10),
    seed=st.integers(0, 2**31),
)
def test_upfirdn2d_agrees_with_reference(
    shape, layout, dtype, taps, stylegan, factors, padding, flip, gain, seed
) -> None:
    x = laid_out(shape, layout, dtype, seed).requires_grad_()
    rng = torch.Generator().manual_seed(seed)
    f = None if taps is None else torch.randn(taps, generator=rng)
    up, down = list(factors[:2]), list(factors[2:])
    if stylegan:  # the fast cases, which the other draws seldom meet
        f, up, down = (
            upfirdn2d.setup_filter([1, 3, 4, 2]),
            *[([2, 2], [1, 1]), ([1, 1], [2, 2]), ([1, 1], [1, 1])][seed % 3],
        )
    kwargs = {"up": up, "down": down, "padding": list(padding), "flip_filter": flip, "gain": gain}
    exact = x.detach().double().requires_grad_()
    try:
        want = upfirdn2d.upfirdn2d(exact, f, impl="ref", **kwargs)
    except ValueError as error:
        assert "nothing is left" in str(error)
        with pytest.raises(ValueError, match="nothing is left"):
            upfirdn2d.upfirdn2d(x, f, impl="cpu", **kwargs)
        return
    got = upfirdn2d.upfirdn2d(x, f, impl="cpu", **kwargs)
    assert got.dtype == dtype
    taps_sum = 1.0 if f is None else f.abs().sum().item() ** (2 / f.ndim)
    scale = (x.abs().max().item() if x.numel() else 0) * taps_sum * abs(gain)
    assert_within(got, want, scale, 8)
    cotangent = torch.linspace(-1, 1, got.numel()).reshape(got.shape).to(dtype)
    (grad,) = torch.autograd.grad(got, x, cotangent)
    (exact_grad,) = torch.autograd.grad(want, exact, cotangent.double())
    assert_within(grad, exact_grad, taps_sum * abs(gain), 8)


def test_large_inputs_agree_on_any_number_of_threads() -> None:
    """Beyond one chunk of work; the same bits on one thread and on three."""
    for layout in ("contiguous", "channels_last"):
        x = laid_out((3, 8, 40, 41), layout, torch.float32, 0)
        b = torch.randn(8)
        results = []
        before = torch.get_num_threads()
        for threads in (1, 3):
            torch.set_num_threads(threads)
            y = upfirdn2d.upfirdn2d(x, FILTER, up=2, padding=[2, 1, 2, 1], impl="cpu")
            results.append((y, bias_act.bias_act(y, b, act="lrelu", clamp=0.5, impl="cpu")))
        torch.set_num_threads(before)
        assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
        want = upfirdn2d.upfirdn2d(x.double(), FILTER, up=2, padding=[2, 1, 2, 1], impl="ref")
        assert_within(results[0][0], want, x.abs().max().item(), 8)
        want = bias_act.bias_act(results[0][0].double(), b.double(), act="lrelu", clamp=0.5, impl="ref")
        assert_within(results[0][1], want, 1, 8)


@pytest.mark.parametrize("act", sorted(bias_act.activation_funcs))
def test_far_and_undefined_numbers_are_those_of_torch(act: str) -> None:
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-9, 19.999, 20.001, -25.0, 60.0, -60.0, 1e4, -1e4, float("nan")])
    for dtype in (torch.float32, torch.float64):
        got = bias_act.bias_act(x.to(dtype), act=act, gain=1.5, impl="cpu")
        want = bias_act.bias_act(x.to(dtype), act=act, gain=1.5, impl="ref")
        assert torch.allclose(got, want, rtol=20 * torch.finfo(dtype).eps, atol=1e-33, equal_nan=True), (got, want)


def test_a_filter_that_wants_a_gradient_takes_the_reference_path() -> None:
    x, f = torch.randn(2, 4, 32, 32), FILTER.clone().requires_grad_()
    upfirdn2d.upfirdn2d(x, f).sum().backward()
    assert f.grad is not None
    with pytest.raises(ValueError, match="gradient of a filter"):
        upfirdn2d.upfirdn2d(x, f, impl="cpu")


def test_third_derivatives_of_smooth_activations_are_refused() -> None:
    x = torch.randn(5, requires_grad=True)
    for act, exists in [("lrelu", True), ("tanh", False)]:
        (first,) = torch.autograd.grad(bias_act.bias_act(x, dim=0, act=act, impl="cpu").sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * first).sum(), x, create_graph=True)
        if exists:
            torch.autograd.grad((second * x).sum(), x)
        else:
            with pytest.raises(NotImplementedError, match="impl='ref'"):
                torch.autograd.grad((second * x).sum(), x)


def test_impl_asks_for_what_can_be_had() -> None:
    x = torch.randn(1, 1, 4, 4)
    with pytest.raises(ValueError, match="needs a tensor on that device"):
        bias_act.bias_act(x, act="relu", impl="cuda")
    with pytest.raises(ValueError, match="auto, cuda, cpu, ref"):
        bias_act.bias_act(x, act="relu", impl="fast")
    with pytest.raises(ValueError, match="float16"):
        upfirdn2d.upfirdn2d(x.half(), FILTER, padding=2, impl="cpu")
    assert bias_act.bias_act(x.half(), act="relu").dtype == torch.float16


@pytest.mark.parametrize("name", ["bias_act", "bias_act_kernel"])
def test_opcheck_bias_act(name: str) -> None:
    op = getattr(OPS, name).default
    x = torch.randn(2, 3, 4, 4, requires_grad=name == "bias_act")
    b, g = torch.randn(3, requires_grad=name == "bias_act"), torch.randn(2, 3, 4, 4)
    torch.library.opcheck(op, (x, b, None, 0, 1, LRELU, 0.2, 1.4, 0.5))
    torch.library.opcheck(op, (x, b, g, 1, 1, 3, 0.0, 1.4, -1.0))
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(x.requires_grad)
    torch.library.opcheck(op, (last, None, None, 0, 1, LRELU, 0.2, 1.4, -1.0))


@pytest.mark.parametrize("name", ["upfirdn2d", "upfirdn2d_kernel"])
def test_opcheck_upfirdn2d(name: str) -> None:
    op = getattr(OPS, name).default
    x = torch.randn(2, 3, 4, 5, requires_grad=name == "upfirdn2d")
    torch.library.opcheck(op, (x, FILTER, [2, 1], [1, 2], [2, 1, 2, 1], False, 2.0))
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_(x.requires_grad)
    torch.library.opcheck(op, (last, None, [1, 1], [2, 1], [0, 1, -1, 0], True, 1.0))


class Layer(torch.nn.Module):
    """One of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
        self.bias = torch.nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = conv2d_resample.conv2d_resample(x, self.weight, FILTER, up=2, padding=1, flip_weight=False)
        return bias_act.bias_act(x, self.bias, act="lrelu", clamp=3)


def test_compiles_whole_with_gradients() -> None:
    torch.compiler.reset()
    layer = Layer()
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 16, 16)
    for each in (layer, compiled):
        each(x).square().sum().backward()
    for want, got in zip(layer.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(got.grad, want.grad)


def test_exports() -> None:
    layer, x = Layer(), torch.randn(2, 4, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.export.export(layer, (x,))
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"torch_utils.upfirdn2d.default", "torch_utils.bias_act.default"} <= targets
    torch.testing.assert_close(program.module()(x), layer(x))


def test_maps_over_batches_and_refuses_filters() -> None:
    x, b = torch.randn(5, 2, 3, 16, 16), torch.randn(5, 3)

    def call(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y = upfirdn2d.upfirdn2d(x, FILTER, padding=[2, 1, 2, 1], impl="cpu")
        return bias_act.bias_act(y, b, act="lrelu", impl="cpu")

    def loss(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return call(x, b).square().sum()

    for in_dims in [(0, 0), (0, None), (1, None)]:
        batch = x if in_dims[0] == 0 else x.transpose(0, 1)
        biases = b if in_dims[1] == 0 else b[0]
        for function in (call, torch.func.grad(loss)):
            got = torch.vmap(function, in_dims=in_dims)(batch, biases)
            want = [function(x[i], b[i] if in_dims[1] == 0 else b[0]) for i in range(5)]
            torch.testing.assert_close(got, torch.stack(want))
    with pytest.raises(NotImplementedError, match="filters"):
        torch.vmap(lambda f: upfirdn2d.upfirdn2d(x[0], f, impl="cpu"))(torch.randn(5, 4, 4))


@pytest.mark.parametrize("impl", ["ref", "cpu"])
def test_autocast_leaves_the_dtype_alone(impl: str) -> None:
    x, b = torch.randn(2, 4, 16, 16), torch.randn(4)
    plain = upfirdn2d.upfirdn2d(x, FILTER, padding=2, impl=impl)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(upfirdn2d.upfirdn2d(x, FILTER, padding=2, impl=impl), plain)
        assert bias_act.bias_act(x.bfloat16(), b, act="lrelu", impl=impl).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", sorted(custom_ops.SUPPORTED["cuda"], key=str), ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every second", "transposed", "expanded"])
def test_cuda_agrees_with_reference(layout: str, dtype: torch.dtype) -> None:
    """Values and gradients on the GPU against the reference path in float64 on the CPU."""
    x = laid_out((3, 8, 21, 18), layout, dtype, 0)
    b = torch.linspace(-1, 1, 8).to(dtype)
    calls = [
        (bias_act.bias_act, {"b": b, "act": act, "clamp": clamp})
        for act in bias_act.activation_funcs
        for clamp in (None, 0.7)
    ]
    for up, down in [(1, 1), (2, 1), (1, 2), (3, 2)]:
        for f in (FILTER, upfirdn2d.setup_filter([1, 3, 4, 2]), torch.randn(5), torch.randn(3, 6), None):
            kwargs = {"f": f, "up": up, "down": down, "padding": [5, -1, 2, 4], "gain": 1.5}
            calls += [(upfirdn2d.upfirdn2d, {**kwargs, "flip_filter": flip}) for flip in (False, True)]
    for op, kwargs in calls:
        tensors = {key: value for key, value in kwargs.items() if isinstance(value, torch.Tensor)}
        on_gpu = {**kwargs, **{key: value.cuda() for key, value in tensors.items()}}
        given, exact = x.cuda().requires_grad_(), x.double().requires_grad_()
        if "b" in tensors:
            kwargs = {**kwargs, "b": b.double()}
        got, want = op(given, impl="cuda", **on_gpu), op(exact, impl="ref", **kwargs)
        assert_within(got.cpu(), want, 60, 16)
        if dtype in (torch.float32, torch.float64):  # coarser types round x + b across kinks and limits
            (grad,) = torch.autograd.grad(got.sum(), given)
            (exact_grad,) = torch.autograd.grad(want.sum(), exact)
            assert_within(grad.cpu(), exact_grad, 60, 32)
