"""Our Adam: the bits of torch.optim.Adam, and its records."""

import copy

import pytest
import torch
from torch import nn

from gan_refine.refine.adam import Adam

BETAS = (0.0, 0.99)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2))


def groups(net: nn.Sequential) -> list[list[nn.Parameter]]:
    return [list(part.parameters()) for part in net]


def torchs(net: nn.Sequential) -> torch.optim.Adam:
    return torch.optim.Adam([{"params": group} for group in groups(net)], betas=BETAS, fused=True)


def give_gradients(net: nn.Sequential, step: int) -> None:
    """Those of a seed; in the first step one parameter has none."""
    rng = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(net.parameters()):
        gradient = torch.randn(parameter.shape, generator=rng)
        parameter.grad = None if step == number == 0 else gradient


def step_torchs(optimizer: torch.optim.Adam, rates: list[float]) -> None:
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    optimizer.step()


def test_steps_and_records_are_those_of_torch_to_the_bit():
    ours, theirs = network(), network()
    adam, reference = Adam(groups(ours), BETAS), torchs(theirs)
    for step in range(4):
        rates = [1e-3 * (step + 1), 1e-2]
        for net in (ours, theirs):
            give_gradients(net, step)
        adam.step(rates)
        step_torchs(reference, rates)
        if step == 1:  # a record of torch's goes on as well
            adam = Adam(groups(ours), BETAS)
            adam.load_state_dict(copy.deepcopy(reference.state_dict()))
    assert all(torch.equal(one, two) for one, two in zip(ours.parameters(), theirs.parameters(), strict=True))
    saved, wanted = adam.state_dict()["state"], reference.state_dict()["state"]
    assert saved.keys() == wanted.keys()
    assert all(torch.equal(saved[number][name], wanted[number][name]) for number in wanted for name in wanted[number])
    adam.zero_grad()
    assert all(parameter.grad is None for parameter in ours.parameters())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_step_is_skipped_on_the_device_and_its_record_goes_elsewhere(device: str):
    net = network().to(device)
    adam, before = Adam(groups(net), BETAS), copy.deepcopy(net)
    for skip in (1.0, 0.0):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        adam.step([1e-3, 1e-3], torch.tensor(skip, device=device))
        same = [torch.equal(one, two) for one, two in zip(net.parameters(), before.parameters(), strict=True)]
        assert all(same) == bool(skip)
    elsewhere = Adam(groups(network()), BETAS)
    elsewhere.load_state_dict(adam.state_dict())
    for values in elsewhere.state.values():
        assert all(value.device.type == "cpu" for value in values.values()) and float(values["step"]) == 1


def test_a_gradient_of_another_layout_moves_the_same_weights():
    results = []
    for layout in (torch.channels_last, torch.contiguous_format):
        weight = nn.Parameter(torch.arange(72.0).reshape(2, 4, 3, 3).contiguous(memory_format=torch.channels_last))
        weight.grad = torch.arange(72.0).reshape(2, 4, 3, 3).sin().contiguous(memory_format=layout)
        Adam([[weight]], BETAS).step([1e-2])
        results.append(weight.detach())
    assert torch.equal(*results)


def test_a_record_of_other_parameters_is_refused():
    adam, other = Adam(groups(network()), BETAS), nn.Sequential(nn.Linear(3, 3))
    for parameter in other.parameters():
        parameter.grad = torch.ones_like(parameter)
    foreign = Adam(groups(other), BETAS)
    foreign.step([1e-3])
    with pytest.raises(ValueError, match="not of these 4 parameters"):
        adam.load_state_dict(foreign.state_dict())
