"""Small networks, generators and objectives that several tests are made of."""

from collections.abc import Callable

import torch
from torch import nn

from gan_refine.generators import StyleGan2
from gan_refine.interfaces import Generator as GeneratorContract
from gan_refine.interfaces import ImageSpec, Latents, Loss, Objective
from gan_refine.networks.edm_precond import EDMPrecond
from gan_refine.networks.stylegan2 import Generator

UNET = {"model_type": "SongUNet", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def no_labels(n: int) -> torch.Tensor:
    return torch.zeros([n, 0])


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor, where -0 differs from 0."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def gradient_at(objective: Objective, fake: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, Loss]:
    """The gradient of the generator's loss at unlabeled images, and the loss."""
    fake = fake.clone().requires_grad_()
    loss = objective.generator_loss(fake, no_labels(len(fake)), rng(seed))
    (gradient,) = torch.autograd.grad(loss.per_sample.sum(), fake)
    return gradient, loss


class PixelLoss(Objective):
    """`scale` times the mean over pixel values of a function of the images. Adds no noise and trains no network."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.function, self.scale = function, scale

    def generator_loss(self, fake, labels, rng) -> Loss:
        return Loss(self.scale * self.function(fake).flatten(1).mean(1), torch.ones(len(fake)), {})


class Quadratic(PixelLoss):
    """The mean squared distance of the pixel values to 1, times `scale`."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(lambda fake: (fake - 1).square(), scale)


class Foreign(nn.Module):
    """A generator of an unknown class, to be pickled: each channel of its images is one of the latents."""

    z_dim = 4

    def __init__(self, channels: int = 1, resolution: int = 16) -> None:
        super().__init__()
        self.channels, self.resolution = channels, resolution
        self.scale = nn.Parameter(torch.ones([]))

    def forward(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (self.scale * z[:, : self.channels, None, None]).repeat(1, 1, self.resolution, self.resolution)


def small_unet(
    resolution: int, channels: int = 1, classes: int = 0, shift: float = 0.05, **options: object
) -> EDMPrecond:
    """A teacher's network whose weights are moved at random: fresh ones end in layers near 0, where all gradients are small."""
    net = EDMPrecond(resolution, channels, classes, **{**UNET, **options})
    for parameter in net.parameters():
        parameter.data.add_(shift * torch.randn_like(parameter))
    return net


def small_stylegan2(resolution: int, classes: int, noise_strength: float, **synthesis) -> StyleGan2:
    """A grey StyleGAN2 of at most 8 channels whose weights are the same each time, with noise of that strength."""
    torch.manual_seed(0)
    synthesis = {"channel_base": 64, "channel_max": 8, **synthesis}
    net = Generator(8, classes, 8, resolution, 1, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=synthesis)
    for name, parameter in net.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(noise_strength)
    return StyleGan2(net)


class SingleImage(GeneratorContract):
    """A generator of one image [1, C, R, R], whose pixels are its parameters: a Dirac distribution."""

    def __init__(self, pixels: torch.Tensor) -> None:
        super().__init__()
        self.spec = ImageSpec(pixels.shape[1], pixels.shape[2])
        self.pixels = nn.Parameter(pixels.detach().clone())

    def draw(self, n, rng):
        return Latents(torch.zeros([n, 1]), torch.zeros([n, 0]))

    def forward(self, latents):
        return self.pixels.expand(len(latents), -1, -1, -1)

    def export(self, path):
        torch.save(self.state_dict(), path)
