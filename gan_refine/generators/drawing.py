"""The random part of a batch, for every family whose latents are normal and whose labels are classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gan_refine.interfaces import Latents
from gan_refine.labels import Frequencies, draw_labels


@dataclass(frozen=True)
class Drawing:
    """How often each class is drawn, None for all alike; whether the network's noise inputs are the constant ones of its file."""

    frequencies: Frequencies | None = None
    constant_noise: bool = False


def draw_latents(
    n: int, shape: Sequence[int], classes: int, rng: torch.Generator, device: torch.device | str, drawing: Drawing
) -> Latents:
    """z ~ N(0, I) [n, *shape], labels by their frequencies, and a seed for the network's own noise, or None for constant noise.

    `rng` is on the CPU, so that every device gets the same; z and labels are the same with either noise.
    """
    z = torch.randn([n, *shape], generator=rng)
    labels = draw_labels(n, classes, rng, drawing.frequencies)
    seed = int(torch.randint(2**62, [], generator=rng))
    return Latents(z.to(device), labels.to(device), None if drawing.constant_noise else seed)
