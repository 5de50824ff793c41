"""The pictures of a report: before and after, truncation, interpolation, what changed, nearest samples of the teacher."""

import base64
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from gan_refine.errors import MismatchError
from gan_refine.evaluation import Teacher, grid_latents, render
from gan_refine.evaluation.images import teacher_images
from gan_refine.foundation import distributed
from gan_refine.generators import PretrainedGenerator
from gan_refine.interfaces import Latents, PixelBytes
from gan_refine.run.folder import save_png, tile
from gan_refine.sampling import DEFAULT_STEPS

SIDE = 96  # pixels of an image in the page at most
SHOWN, COLUMNS = 36, 6
COMPARED = 256  # images among which those that changed most and least are found
PSIS = (0.0, 0.25, 0.5, 0.75, 1.0)
ROW = 6
STEPS = 8  # of an interpolation
TEACHER_FILE, TEACHER_SAMPLES, TEACHER_COLUMNS = "teacher_samples.png", 32, 8
NEAREST = 3


@dataclass(frozen=True)
class Picture:
    """A PNG as data URI, with a caption; `width` is that of the image in cells."""

    caption: str
    uri: str
    width: int


@dataclass(frozen=True)
class Pictures:
    """All pictures of a report. Lists are empty where a generator or the run folder has nothing to show."""

    before: Picture
    after: Picture
    truncation: list[Picture]
    interpolation: list[Picture]
    changed: list[Picture]
    teacher: list[Picture]
    nearest: list[Picture]
    classes: list[int]  # of the images of `before`, if they have classes; they are sorted by it


def save_teacher_samples(teacher: Teacher, known: PixelBytes | None, folder: Path, seed: int) -> None:
    """Samples of the teacher, from the `known` ones if there are any, as one PNG in the run folder, for its reports."""
    images = [] if known is None else [known[:TEACHER_SAMPLES]]
    if known is None:
        stream = teacher_images(teacher.denoiser, TEACHER_SAMPLES, DEFAULT_STEPS, seed, frequencies=teacher.frequencies)
        images = [images for _, images in stream]
    if images and distributed.is_rank0():
        save_png(folder / TEACHER_FILE, tile(torch.cat(images), TEACHER_COLUMNS))


def make_pictures(original: PretrainedGenerator, refined: PretrainedGenerator, folder: Path, seed: int) -> Pictures:
    """Both generators on the same latents, with constant noise where they have noise inputs."""
    drawn = grid_latents(original, seed, COMPARED if original.spec.resolution <= 64 else SHOWN)
    noise = None if original.has_noise_inputs else 0
    latents = replace(drawn, noise_seed=noise)
    before, after = _small(render(original, latents)), _small(render(refined, latents))
    shown = _sorted_by_class(latents, SHOWN)
    samples = _teacher_samples(folder, before.shape[1:])
    both = (("before", original), ("after", refined))
    return Pictures(
        before=_picture("before", before[shown], COLUMNS),
        after=_picture("after", after[shown], COLUMNS),
        truncation=_truncation(both, _part(latents, shown[:ROW])),
        interpolation=[_interpolation(name, generator, latents) for name, generator in both],
        changed=_changed(before, after),
        teacher=[] if samples is None else [_picture("samples of the teacher", samples, TEACHER_COLUMNS)],
        nearest=[] if samples is None else [_nearest(after, samples)],
        classes=latents.labels[shown].argmax(1).tolist() if original.spec.num_classes else [],
    )


def _sorted_by_class(latents: Latents, n: int) -> list[int]:
    indices = list(range(min(n, len(latents))))
    if latents.labels.shape[1] == 0:
        return indices
    return sorted(indices, key=lambda index: int(latents.labels[index].argmax()))


def _part(latents: Latents, indices: list[int]) -> Latents:
    return Latents(latents.z[indices], latents.labels[indices], latents.noise_seed)


def _truncation(both: tuple[tuple[str, PretrainedGenerator], ...], latents: Latents) -> list[Picture]:
    found = []
    try:
        for name, generator in both:
            rows = [_small(render(generator.truncated(psi), latents)) for psi in PSIS]
            found.append(_picture(f"{name}: psi {', '.join(f'{psi:g}' for psi in PSIS)}", torch.cat(rows), ROW))
    except MismatchError:  # a family without truncation
        return []
    return found


def _interpolation(name: str, generator: PretrainedGenerator, latents: Latents) -> Picture:
    """Along a great circle between z of the first two latents, in the class of the first."""
    a, b = latents.z[0], latents.z[1]
    angle = torch.linspace(0, torch.pi / 2, STEPS, device=a.device).reshape(-1, *[1] * a.ndim)
    z = angle.cos() * a + angle.sin() * b
    images = render(generator, Latents(z, latents.labels[:1].expand(STEPS, -1), latents.noise_seed))
    return _picture(name, _small(images), STEPS)


def _changed(before: PixelBytes, after: PixelBytes) -> list[Picture]:
    change = (before.float() - after.float()).square().flatten(1).mean(1).sqrt()
    order = change.argsort(descending=True)
    found = []
    for name, chosen in (("most", order[:ROW]), ("least", order[-ROW:].flip(0))):
        low, high = float(change[chosen].min()), float(change[chosen].max())
        caption = f"changed {name} of {len(before)} (rms {low:.1f} to {high:.1f} of 255): before above after"
        found.append(_picture(caption, torch.cat([before[chosen], after[chosen]]), ROW))
    return found


def _nearest(after: PixelBytes, samples: UInt8[Tensor, "m c h w"]) -> Picture:
    rows = after[:ROW]
    distances = torch.cdist(rows.flatten(1).float(), samples.flatten(1).float())
    nearest = distances.argsort(dim=1)[:, :NEAREST]
    columns = torch.cat([rows[None], samples[nearest.T]])  # [1 + NEAREST, ROW, C, H, W]
    caption = f"refined images above their {NEAREST} nearest of {len(samples)} samples of the teacher, by squared error of pixels"
    return _picture(caption, columns.flatten(0, 1), ROW)


def _teacher_samples(folder: Path, shape: torch.Size) -> PixelBytes | None:
    """The samples in the run folder, if their shape [C, H, W] in the page is that of the generator's images."""
    path = folder / TEACHER_FILE
    if not path.is_file():
        return None
    pixels = np.asarray(Image.open(path))
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    side = pixels.shape[1] // TEACHER_COLUMNS
    grid = torch.from_numpy(pixels.copy()).reshape(-1, side, TEACHER_COLUMNS, side, pixels.shape[2])
    samples = _small(grid.permute(0, 2, 4, 1, 3).flatten(0, 1))
    return samples if samples.shape[1:] == shape else None


def _small(images: PixelBytes) -> PixelBytes:
    """On the CPU, at most SIDE pixels wide."""
    images = images.cpu()
    if images.shape[-1] <= SIDE:
        return images
    factor = -(-images.shape[-1] // SIDE)
    return torch.nn.functional.avg_pool2d(images.float(), factor).round().to(torch.uint8)


def _picture(caption: str, images: PixelBytes, columns: int) -> Picture:
    return Picture(caption, data_uri(tile(images, columns)), columns)


def data_uri(pixels: np.ndarray) -> str:
    """uint8 [H, W, 1 or 3] as the address of a PNG that a page holds itself."""
    stream = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
