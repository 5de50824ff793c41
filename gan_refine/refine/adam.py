"""Adam (arXiv:1412.6980): torch's update, in a class that does not import torch's compiler as torch.optim.Adam does."""

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as torch_adam

EPS = 1e-8


class AdamRecord(TypedDict):
    """The optimizer in a checkpoint: for each parameter by its number `step`, `exp_avg` and `exp_avg_sq`, as torch names them."""

    state: dict[int, dict[str, Tensor]]


class Adam:
    """Adam over groups of parameters, each with its own learning rate, and one kernel of torch's for all of a group.

    torch.optim.Adam with fused=True gives the same bits, but takes 3 s of processor time to start, for torch._dynamo.
    """

    def __init__(self, groups: Sequence[list[nn.Parameter]], betas: tuple[float, float]) -> None:
        self.groups, self.betas = groups, betas
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}  # of those that had a gradient

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All, in the order of the groups."""
        return [parameter for group in self.groups for parameter in group]

    @torch.no_grad()
    def step(self, rates: Sequence[float], skip: Tensor | None = None) -> None:
        """One update with a learning rate for each group; a `skip` of 1 on the device makes it change nothing."""
        for group, rate in zip(self.groups, rates, strict=True):
            moving = [parameter for parameter in group if parameter.grad is not None]
            states = [self._state_of(parameter) for parameter in moving]
            torch_adam(
                [*moving],
                [_laid_out_as(parameter, parameter.grad) for parameter in moving if parameter.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                found_inf=skip,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=rate,
                weight_decay=0,
                eps=EPS,
                maximize=False,
            )

    def zero_grad(self) -> None:
        """Frees all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    def state_dict(self) -> AdamRecord:
        """Holds the tensors themselves."""
        return {"state": {n: self.state[p] for n, p in enumerate(self.parameters) if p in self.state}}

    def load_state_dict(self, record: AdamRecord) -> None:
        """Copies the record, of this device or another. Raises ValueError where it is of other parameters."""
        parameters, saved = self.parameters, record["state"]
        if not all(0 <= n < len(parameters) and parameters[n].shape == saved[n]["exp_avg"].shape for n in saved):
            raise ValueError(f"the optimizer's record is not of these {len(parameters)} parameters")
        self.state = {parameters[n]: self._state_of(parameters[n]) for n in saved}
        for n, values in saved.items():
            for name, value in values.items():
                self.state[parameters[n]][name].copy_(value)

    def _state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        if parameter not in self.state:
            self.state[parameter] = {
                "step": torch.zeros([], dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
        return self.state[parameter]


def _laid_out_as(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """The kernel for CPUs goes through memory in order, whatever the strides. Autograd's gradients have the parameter's."""
    return gradient if gradient.stride() == parameter.stride() else torch.empty_like(parameter).copy_(gradient)
