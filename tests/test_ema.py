"""gan_refine.ema: half-life, ramp-up, buffers."""

import pytest
import torch
from torch import nn

from gan_refine.ema import WeightAverage


def constant_net(value: float) -> nn.Module:
    """A batch norm whose parameters and running mean are `value` everywhere."""
    net = nn.BatchNorm1d(3)
    for tensor in (*net.parameters(), net.running_mean):
        nn.init.constant_(tensor, value)
    return net


@pytest.mark.parametrize("batch", [10, 50, 100])
def test_half_of_the_start_is_left_after_the_halflife(batch: int) -> None:
    average = WeightAverage(constant_net(1.0), halflife_images=100)
    target = constant_net(0.0)
    for seen in range(batch, 101, batch):
        average.update(target, seen, batch)
    assert average.module.weight.tolist() == pytest.approx([0.5] * 3, rel=1e-6)


def test_ramp_up_shortens_the_halflife_early_only() -> None:
    ramped = WeightAverage(constant_net(1.0), 1000, rampup_ratio=0.05)
    assert ramped.decay(images_seen=200, batch=10) == pytest.approx(0.5)  # half-life 200 * 0.05 = 10 images
    assert ramped.decay(images_seen=40_000, batch=10) == pytest.approx(0.5**0.01)
    plain = WeightAverage(constant_net(1.0), 1000, rampup_ratio=0.0)
    assert plain.decay(images_seen=200, batch=10) == pytest.approx(0.5**0.01)


def test_halflife_zero_follows_at_once() -> None:
    average = WeightAverage(constant_net(1.0), halflife_images=0)
    average.update(constant_net(3.0), 10, 10)
    assert torch.equal(average.module.weight, torch.full([3], 3.0))


def test_buffers_are_copied_not_averaged() -> None:
    average = WeightAverage(constant_net(1.0), halflife_images=1e9)
    average.update(constant_net(3.0), 10, 10)
    assert average.module.running_mean.tolist() == [3.0] * 3
    assert average.module.weight.tolist() == pytest.approx([1.0] * 3, abs=1e-6)


def test_average_is_a_copy_without_gradients_and_leaves_the_model_alone() -> None:
    model = constant_net(1.0)
    average = WeightAverage(model, halflife_images=100)
    average.update(constant_net(0.0), 100, 100)
    assert model.weight.tolist() == [1.0] * 3 and model.weight.requires_grad
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_equal_weights_stay_bit_identical() -> None:
    model = nn.Linear(7, 7)
    average = WeightAverage(model, halflife_images=123)
    average.update(model, 10, 10)
    assert torch.equal(average.module.weight, model.weight)


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ValueError):
        WeightAverage(nn.Linear(3, 3), 100).update(nn.Linear(3, 3, bias=False), 10, 10)
