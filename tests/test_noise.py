"""gan_refine.noise: distributions of sigma, weights, noise."""

import dataclasses
import math

import pytest
import torch

from gan_refine.noise import Karras, LogNormal, SigmaDistribution, add_noise, edm_weight

N = 100_000
STANDARD_ERRORS = 5
LOW, HIGH = 0.002 ** (1 / 7), 80 ** (1 / 7)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lognormal_has_its_mean_and_deviation() -> None:
    logs = LogNormal(mean=-1.2, std=1.2).sample(N, rng()).log().flatten()
    assert float(logs.mean()) == pytest.approx(-1.2, abs=STANDARD_ERRORS * 1.2 / math.sqrt(N))
    assert float(logs.std()) == pytest.approx(1.2, abs=STANDARD_ERRORS * 1.2 / math.sqrt(2 * N))


def test_karras_is_uniform_on_the_grid() -> None:
    position = Karras(lower=0.0, upper=1.0).sample(N, rng()).double().flatten() ** (1 / 7)
    uniform, _ = ((position - LOW) / (HIGH - LOW)).sort()
    distance = (uniform - (torch.arange(N, dtype=torch.float64) + 0.5) / N).abs().max()
    assert float(distance) < 2 / math.sqrt(N)  # Kolmogorov-Smirnov: exceeded with probability 2 exp(-8)


@pytest.mark.parametrize(
    ("distribution", "lowest", "highest"),
    [
        (Karras(), (0.98 * LOW + 0.02 * HIGH) ** 7, (0.02 * LOW + 0.98 * HIGH) ** 7),
        (Karras(lower=0.0, upper=0.8), 0.002, 24.4),
    ],
    ids=["dmd", "sid"],
)
def test_karras_shares_bound_sigma(distribution: Karras, lowest: float, highest: float) -> None:
    sigma = distribution.sample(N, rng())
    assert float(sigma.min()) == pytest.approx(lowest, rel=1e-2) and float(sigma.min()) >= lowest * (1 - 1e-3)
    assert float(sigma.max()) == pytest.approx(highest, rel=2e-3) and float(sigma.max()) <= highest * (1 + 2e-3)


@pytest.mark.parametrize("distribution", [LogNormal(), Karras()])
def test_distributions_replay_and_are_frozen(distribution: SigmaDistribution) -> None:
    sigma = distribution.sample(16, rng(3))
    assert sigma.shape == (16, 1, 1, 1) and sigma.dtype == torch.float32
    assert torch.equal(sigma, distribution.sample(16, rng(3)))
    assert not torch.equal(sigma, distribution.sample(16, rng(4)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(distribution, dataclasses.fields(distribution)[0].name, 0.0)


def test_edm_weight_is_the_inverse_of_c_out_squared() -> None:
    sigma = torch.tensor([0.01, 0.5, 30.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    c_out = sigma * 0.7 / (sigma**2 + 0.7**2).sqrt()  # Table 1 of arXiv:2206.00364
    torch.testing.assert_close(edm_weight(sigma, 0.7), 1 / c_out**2, rtol=1e-12, atol=0)
    assert float(edm_weight(torch.full([1, 1, 1, 1], 0.5))) == pytest.approx(8.0)


def test_noise_has_deviation_sigma_in_each_image() -> None:
    images = torch.linspace(-1, 1, 3).reshape(3, 1, 1, 1).expand(3, 1, 200, 200)
    sigma = torch.tensor([0.0, 0.3, 20.0]).reshape(-1, 1, 1, 1)
    noise = add_noise(images, sigma, rng()) - images
    assert torch.equal(noise[0], torch.zeros_like(noise[0]))
    for part, level in zip(noise[1:], (0.3, 20.0), strict=True):
        assert float(part.std()) == pytest.approx(level, rel=STANDARD_ERRORS / math.sqrt(2 * 40_000))
        assert float(part.mean()) == pytest.approx(0, abs=STANDARD_ERRORS * level / 200)


def test_noise_replays_and_passes_gradients_unchanged() -> None:
    images = torch.zeros(2, 1, 4, 4, requires_grad=True)
    noisy = add_noise(images, torch.ones(2, 1, 1, 1), rng(1))
    assert torch.equal(noisy, add_noise(images, torch.ones(2, 1, 1, 1), rng(1)))
    noisy.sum().backward()
    assert images.grad is not None and torch.equal(images.grad, torch.ones_like(images))
