"""The exact denoiser of Gaussian data: a teacher with closed forms for tests and toys."""

import torch
from torch import nn

from gan_refine.interfaces import Denoiser, Images, ImageSpec, Labels, Sigma


class GaussianTeacher(Denoiser):
    """Data x ~ N(mean, deviation^2) in every pixel: D(x, sigma) = (s^2 x + sigma^2 m) / (s^2 + sigma^2).

    As a trainable copy its mean and log deviation are parameters, so that it can follow a Gaussian generator exactly.
    """

    def __init__(self, mean: float, deviation: float, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = spec
        self.sigma_range = (0.002, 80.0)
        self.mean = nn.Parameter(torch.tensor(float(mean)), requires_grad=False)
        self.log_deviation = nn.Parameter(torch.tensor(float(deviation)).log(), requires_grad=False)

    def forward(self, noisy: Images, sigma: Sigma, labels: Labels) -> Images:
        variance = (2 * self.log_deviation).exp()
        return (variance * noisy + sigma**2 * self.mean) / (variance + sigma**2)

    def trainable_copy(self) -> "GaussianTeacher":
        twin = GaussianTeacher(float(self.mean), float(self.log_deviation.exp()), self.spec)
        twin.load_state_dict(self.state_dict())
        return twin.requires_grad_(True)
