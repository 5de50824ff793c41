"""w_avg, towards which truncation moves: the mean w of a mapping network, recomputed after its weights have changed."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_refine.interfaces import Latents
from gan_refine.noise import rng_for

NUM_LATENTS = 16_384  # the mean's standard error is 1/128 of the deviation of w
BATCH = 1024
STREAM = 3001  # differs from those of training and evaluation

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
def mean_w(mapping: nn.Module, draw: Callable[[int, torch.Generator], Latents]) -> Float[Tensor, " w"]:
    """The mean of w over `NUM_LATENTS` fixed latents: equal weights give equal bits, however they were reached."""
    total: Tensor | None = None
    for start in range(0, NUM_LATENTS, BATCH):
        latents = draw(BATCH, rng_for(0, 0, start, STREAM))
        part = mapping(latents.z, latents.labels)[:, 0].double().sum(0)  # [N, layers, W], all layers alike
        total = part if total is None else total + part
    assert total is not None, "there are latents"
    return (total / NUM_LATENTS).float()
