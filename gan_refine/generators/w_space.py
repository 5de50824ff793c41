"""The space of w, which a mapping network makes of z: its mean, towards which truncation moves, and its principal directions."""

from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_refine.foundation import distributed
from gan_refine.interfaces import Latents
from gan_refine.noise import rng_for

NUM_LATENTS = 16_384  # the mean's standard error is 1/128 of the deviation of w
BATCH = 1024
STREAM = 3001  # differs from those of training and evaluation
LARGEST_RATIO = 1e4  # of two variances of w: where w varies less, it is scaled as if it varied so much

Draw = Callable[[int, torch.Generator], Latents]
Vector = Float[Tensor, " w"]
Weights = Mapping[str, Tensor]


def weights_of(mapping: nn.Module) -> Weights:
    """A copy of the parameters, on the CPU."""
    return {name: parameter.detach().cpu().clone() for name, parameter in mapping.named_parameters()}


def has_moved(mapping: nn.Module, before: Weights) -> bool:
    """Whether any parameter has another value than in `before`."""
    return any(
        not torch.equal(parameter.detach().cpu(), before[name]) for name, parameter in mapping.named_parameters()
    )


@torch.no_grad()
def mean_w(mapping: nn.Module, draw: Draw) -> Vector:
    """The mean of w over `NUM_LATENTS` fixed latents: equal weights give equal bits, however they were reached."""
    total: Tensor | None = None
    for part in _draw_w(mapping, draw):
        total = part.sum(0) if total is None else total + part.sum(0)
    assert total is not None, "there are latents"
    return (total / NUM_LATENTS).float()


@torch.no_grad()
def whiten(net: nn.Module, draw: Draw, power: float) -> None:
    """Scales what the style layers see of w, in its principal directions, by (largest variance / variance)^power, about its mean.

    Standard deviations s become s^(1 - 2 power), times a constant: 0 changes nothing, 0.5 makes all equal. w itself and its mean
    stay, and so does the image of the mean. All `affine` layers of `net.synthesis` change; they are those of networks/stylegan2.py.
    Every process must call it.
    """
    values = torch.cat(list(_draw_w(net.get_submodule("mapping"), draw)))
    mean = values.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov(values.T))
    scales = (variances[-1] / variances.clamp(min=variances[-1] / LARGEST_RATIO)) ** power
    own = torch.cat([(directions * scales) @ directions.T, mean[None]])
    one = distributed.gather_across(own[None])[0]  # that of one process on all
    matrix, mean = one[:-1], one[-1]
    for path, layer in net.get_submodule("synthesis").named_modules():
        if path.rpartition(".")[2] == "affine":
            weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
            gain = layer.weight_gain / layer.bias_gain  # type: ignore[operator]
            moved = weight.double() @ matrix
            bias.copy_(bias + (weight.double() - moved) @ mean * gain)
            weight.copy_(moved)


def _draw_w(mapping: nn.Module, draw: Draw) -> Iterator[Float[Tensor, "n w"]]:
    """In float64, of `NUM_LATENTS` fixed latents."""
    for start in range(0, NUM_LATENTS, BATCH):
        latents = draw(BATCH, rng_for(0, 0, start, STREAM))
        yield mapping(latents.z, latents.labels)[:, 0].double()  # [N, layers, W], all layers alike
