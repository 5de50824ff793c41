"""Augmentation in training: EDM's for teachers (appendix F.2 of arXiv:2206.00364), the adaptive one for GANs (arXiv:2006.06676).

Neither leaks into samples: a denoiser is told how its images were moved, and a discriminator sees real and generated images through
the same random transforms, each with a probability below 1.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

NUM_LABELS = (
    9  # flips in x and y, scale, rotation (2), stretch (2), translation (2), in the order of the published teachers
)
SCALE_STD = STRETCH_STD = 0.2  # of the log2 of the factor
TRANSLATE_STD = 0.125  # in widths of the image
SHIFT_MAX = 0.125  # in widths of the image
BRIGHTNESS_STD, CONTRAST_STD, SATURATION_STD = 0.2, 0.5, 1.0  # the latter two of the log2 of the factor
TARGET, MAX_PROBABILITY = (
    0.6,
    0.8,
)  # of arXiv:2006.06676: r_t in section 3.1; above 0.8 transforms begin to leak (figure 3)
INTERVAL = 4  # steps between two changes of the probability


@dataclass(frozen=True)
class Augmented:
    """Moved images and labels [N, 9] that say how; all zeros where an image is as it was."""

    images: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Draw:
    """Random numbers for `count` images; a transform happens to each image with `probability`, else its number is 0."""

    count: int
    probability: float
    rng: torch.Generator

    def gate(self) -> torch.Tensor:
        return torch.rand([self.count], generator=self.rng) < self.probability

    def coin(self, gate: torch.Tensor) -> torch.Tensor:
        return (torch.rand([self.count], generator=self.rng) < 0.5) & gate

    def normal(self, gate: torch.Tensor) -> torch.Tensor:
        return torch.randn([self.count], generator=self.rng) * gate

    def angle(self, gate: torch.Tensor) -> torch.Tensor:
        return (2 * torch.rand([self.count], generator=self.rng) - 1) * math.pi * gate


def move(images: torch.Tensor, probability: float, rng: torch.Generator, mirror: float | None = None) -> Augmented:
    """Flips, scale, rotation, stretch and translation, each with `probability`; `mirror` is that of flips in x where it differs.

    Half of the flips that are drawn happen. Geometric moves resample with a bicubic kernel at twice the resolution and reflect what
    lies outside. A stretch and its inverse at the opposite angle share a label, as in EDM.
    """
    draw = Draw(len(images), probability, rng)
    flips = Draw(len(images), probability if mirror is None else mirror, rng)
    flip_x, flip_y = flips.coin(flips.gate()), draw.coin(draw.gate())
    scale, angle = draw.normal(draw.gate()), draw.angle(draw.gate())
    gate = draw.gate()
    stretch, axis = draw.normal(gate), draw.angle(gate)
    gate = draw.gate()
    move_x, move_y = draw.normal(gate), draw.normal(gate)
    turn = [angle.cos() - 1, angle.sin()]
    along = [stretch * axis.cos(), stretch * axis.sin()]
    labels = torch.stack([flip_x.float(), flip_y.float(), scale, *turn, *along, move_x, move_y], dim=1)
    # From coordinates of the result back to those of the image: the inverses, the last move first.
    back = _scale(2 ** (-SCALE_STD * scale), 2 ** (-SCALE_STD * scale)) @ _rotate(angle)
    back = back @ _rotate(-axis) @ _scale(2 ** (-STRETCH_STD * stretch), 2 ** (STRETCH_STD * stretch)) @ _rotate(axis)
    back = back @ _translate(-TRANSLATE_STD * move_x, -TRANSLATE_STD * move_y)
    moved = (labels[:, 2:] != 0).any(dim=1)
    whole = _flip(_flip(images, flip_x, 3), flip_y, 2)
    if moved.any():
        which = moved.nonzero()[:, 0].to(images.device)
        whole = whole.index_copy(0, which, _resample(whole[which], back[moved].to(images.device)))
    return Augmented(whole, labels.to(images.device))


def shift(images: torch.Tensor, probability: float, rng: torch.Generator) -> torch.Tensor:
    """Each image moved by up to an eighth of its width along both axes in whole pixels, reflecting what lies outside."""
    n, _, height, width = images.shape
    draw = Draw(n, probability, rng)
    reach, gate = int(SHIFT_MAX * width), draw.gate()
    steps = [torch.randint(-reach, reach + 1, [n], generator=rng) * gate for _ in range(2)]
    padded = F.pad(images, [reach] * 4, mode="reflect")
    rows = (steps[0] + reach)[:, None] + torch.arange(height)
    columns = (steps[1] + reach)[:, None] + torch.arange(width)
    index = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def recolour(images: torch.Tensor, probability: float, rng: torch.Generator) -> torch.Tensor:
    """Brightness, contrast, inversion of luma, hue and saturation of RGB images, each with `probability` (appendix B)."""
    draw = Draw(len(images), probability, rng)
    brightness = BRIGHTNESS_STD * draw.normal(draw.gate())
    contrast = 2 ** (CONTRAST_STD * draw.normal(draw.gate()))
    invert, hue = draw.coin(draw.gate()), draw.angle(draw.gate())
    saturation = 2 ** (SATURATION_STD * draw.normal(draw.gate()))
    grey = torch.full([3, 3], 1 / 3)  # the projection on the axis of luma, v v^T with v = (1, 1, 1) / sqrt(3)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)  # cross @ x = v x x
    column = lambda values: values.reshape(-1, 1, 1)  # noqa: E731
    chroma = torch.eye(3) - grey
    # Rodrigues' rotation about v by the hue, the chroma scaled, the luma negated where inverted.
    matrix = column(1.0 - 2.0 * invert) * grey
    matrix = matrix + column(saturation * hue.cos()) * chroma + column(saturation * hue.sin()) * cross
    matrix = (column(contrast) * matrix).to(images.device)
    offset = torch.where(invert, -1.0, 1.0) * contrast * brightness
    mixed = torch.einsum("nij,njhw->nihw", matrix, images)
    return mixed + offset.to(images.device).reshape(-1, 1, 1, 1)


class Adaptive:
    """Transforms with one probability, which follows how often the discriminator is sure of real images (section 3.1).

    r_t is the mean sign of its outputs for real images: above TARGET the probability grows, below it shrinks, by 1 in `images`.
    """

    def __init__(self, images: int) -> None:
        self.images = images
        self.probability = self.r_t = 0.0
        self.signs: list[float] = []

    def __call__(self, images: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        p = self.probability
        if p == 0:
            return images
        moved = move(shift(images, p, rng), p, rng).images
        return recolour(moved, p, rng)

    def observe(self, logits_real: torch.Tensor) -> None:
        """One batch's outputs of the discriminator for augmented real images; every INTERVAL batches the probability changes."""
        self.signs.append(float(logits_real.detach().sign().mean()))
        if len(self.signs) == INTERVAL:
            self.r_t = sum(self.signs) / INTERVAL
            change = math.copysign(INTERVAL * len(logits_real) / self.images, self.r_t - TARGET)
            self.probability = min(max(self.probability + change, 0.0), MAX_PROBABILITY)
            self.signs = []

    def state_dict(self) -> dict:
        return {"probability": self.probability, "r_t": self.r_t, "signs": list(self.signs)}

    def load_state_dict(self, state: dict) -> None:
        self.probability, self.r_t, self.signs = state["probability"], state["r_t"], list(state["signs"])


def _flip(images: torch.Tensor, mask: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.where(mask.to(images.device).reshape(-1, 1, 1, 1), images.flip(axis), images)


def _matrix(rows: list[list[torch.Tensor | float]], like: torch.Tensor) -> torch.Tensor:
    whole = [torch.stack([torch.as_tensor(entry).expand_as(like) for entry in row], dim=1) for row in rows]
    return torch.stack(whole, dim=1)


def _scale(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _matrix([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]], x)


def _rotate(angle: torch.Tensor) -> torch.Tensor:
    cos, sin = angle.cos(), angle.sin()
    return _matrix([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], angle)


def _translate(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """In widths and heights of the image, which spans 2 units of the grid."""
    return _matrix([[1.0, 0.0, 2 * x], [0.0, 1.0, 2 * y], [0.0, 0.0, 1.0]], x)


def _resample(images: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    n, c, h, w = images.shape
    grid = F.affine_grid(back[:, :2], [n, c, 2 * h, 2 * w], align_corners=False)
    fine = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(fine, 2)
