"""EDM's non-leaky augmentation: images are moved and the denoiser is told how (section 5 and appendix F.2 of arXiv:2206.00364)."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from gan_refine.interfaces import AugmentLabels, Images

NUM_LABELS = 9  # flips in x and y, scale, rotation (2), anisotropic scale (2), translation (2), in this order
SCALE_STD = ANISO_STD = 0.2  # of the log2 of the factor
TRANSLATE_STD = 0.125  # in widths of the image

Matrices = Float[Tensor, "n 3 3"]


@dataclass(frozen=True)
class Augmented:
    """Moved images and labels [N, 9] that say how; all zeros where an image is as it was."""

    images: Images
    labels: AugmentLabels


def augment(images: Images, probability: float, rng: torch.Generator) -> Augmented:
    """Each of the moves happens to each image with `probability`, flips in x to every second image unless that is 0.

    Labels follow the order and scale that EDM's networks were trained with; geometric moves resample with a bicubic kernel at
    twice the resolution and reflect what lies outside. A stretch and its inverse at the opposite angle share a label, as in EDM.
    """
    n = len(images)
    gate = lambda share=1.0: torch.rand([n], generator=rng) < share * probability  # noqa: E731
    number = lambda mask: torch.where(mask, torch.randn([n], generator=rng), torch.zeros(n))  # noqa: E731
    coin = lambda mask: (torch.rand([n], generator=rng) < 0.5) & mask  # noqa: E731
    flip_x, flip_y = coin(gate(math.inf) if probability else gate()), coin(gate())
    scale = number(gate())
    angle = torch.where(gate(), (2 * torch.rand([n], generator=rng) - 1) * math.pi, torch.zeros(n))
    aniso_gate = gate()
    aniso = number(aniso_gate)
    axis = torch.where(aniso_gate, (2 * torch.rand([n], generator=rng) - 1) * math.pi, torch.zeros(n))
    move_gate = gate()
    move_x, move_y = number(move_gate), number(move_gate)
    flips = [flip_x.float(), flip_y.float()]
    turn = [angle.cos() - 1, angle.sin()]
    labels = torch.stack([*flips, scale, *turn, aniso * axis.cos(), aniso * axis.sin(), move_x, move_y], dim=1)
    # From coordinates of the result back to those of the image: the moves' inverses, the last move first to act.
    back = _scale(2 ** (-SCALE_STD * scale), 2 ** (-SCALE_STD * scale)) @ _rotate(angle)
    back = back @ _rotate(-axis) @ _scale(2 ** (-ANISO_STD * aniso), 2 ** (ANISO_STD * aniso)) @ _rotate(axis)
    back = back @ _translate(-TRANSLATE_STD * move_x, -TRANSLATE_STD * move_y)
    moved = (labels[:, 2:] != 0).any(dim=1).to(images.device)
    flipped = _flip(_flip(images, flip_x, 3), flip_y, 2)
    whole = torch.where(moved.reshape(-1, 1, 1, 1), _resample(flipped, back.to(images.device)), flipped)
    return Augmented(whole, labels.to(images.device))


def _flip(images: Images, mask: Bool[Tensor, " n"], axis: int) -> Images:
    return torch.where(mask.to(images.device).reshape(-1, 1, 1, 1), images.flip(axis), images)


def _matrix(rows: list[list[Tensor | float]], like: Tensor) -> Matrices:
    whole = [torch.stack([torch.as_tensor(entry).expand_as(like) for entry in row], dim=1) for row in rows]
    return torch.stack(whole, dim=1)


def _scale(x: Tensor, y: Tensor) -> Matrices:
    return _matrix([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]], x)


def _rotate(angle: Tensor) -> Matrices:
    cos, sin = angle.cos(), angle.sin()
    return _matrix([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], angle)


def _translate(x: Tensor, y: Tensor) -> Matrices:
    """In widths and heights of the image, which spans 2 units of the grid."""
    return _matrix([[1.0, 0.0, 2 * x], [0.0, 1.0, 2 * y], [0.0, 0.0, 1.0]], x)


def _resample(images: Images, back: Matrices) -> Images:
    n, c, h, w = images.shape
    grid = F.affine_grid(back[:, :2], [n, c, 2 * h, 2 * w], align_corners=False)
    fine = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(fine, 2)
