"""Whether a network copies its training images: the nearest of them to some samples, as a picture and as distances.

    python recipes/neighbours.py emoji32 --teacher=emoji32 --data=emoji32.npz --out=neighbours.png

Distances are root mean square differences of pixels in [-1, 1]. Those of held-out images to the training images say what is
usual for an image that was not copied. Each row of the picture is a sample and its neighbours, the nearest first.
"""

import sys
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine import load_generator, load_teacher
from gan_refine.evaluation import grid_latents, render
from gan_refine.interfaces import PixelBytes
from gan_refine.noise import rng_for
from gan_refine.pixels import to_uint8
from gan_refine.run.folder import save_png, tile
from gan_refine.sampling import DEFAULT_STEPS, sample_images
from recipes import datasets


def nearest(samples: PixelBytes, images: PixelBytes, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances [N, k] from each sample to the `k` nearest images, ascending, and which they are."""
    one, other = (pixels.flatten(1).to(torch.float32) / 127.5 for pixels in (samples, images))
    # Not by matrix products, whose rounding would hide that a copy is at distance 0.
    distances = torch.cdist(one, other, compute_mode="donot_use_mm_for_euclid_dist") / one.shape[1] ** 0.5
    found = distances.topk(k, largest=False)
    return found.values, found.indices


def draw(gan: str | None, teacher: str | None, count: int, seed: int) -> PixelBytes:
    """Samples of the generator or of the teacher that is named."""
    if gan is not None:
        generator = load_generator(gan)
        return render(generator, grid_latents(generator, seed, count))
    assert teacher is not None, "the command has checked that one is given"
    batches = sample_images(load_teacher(teacher), count, steps=DEFAULT_STEPS, batch=64, rng=rng_for(seed, 0, 0, 0))
    return torch.cat([to_uint8(images) for images, _ in batches])


def quartiles(distances: torch.Tensor) -> str:
    """Smallest value, quartiles and largest value."""
    return " ".join(f"{value:.3f}" for value in distances.quantile(torch.tensor([0, 0.25, 0.5, 0.75, 1])).tolist())


@click.command()
@click.argument("name", type=click.Choice(sorted(datasets.SHAPES)))
@click.option("--gan", help="A generator, as --gan of gan-refine.")
@click.option("--teacher", help="A teacher, as --teacher of gan-refine.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help=datasets.HELP)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The PNG to write.")
@click.option("--images", type=click.IntRange(min=1), default=256, show_default=True, help="Samples to draw.")
@click.option("--rows", type=click.IntRange(min=1), default=12, show_default=True, help="Samples in the picture.")
@click.option("--k", type=click.IntRange(min=1), default=5, show_default=True, help="Neighbours of each sample.")
@click.option("--seed", type=int, default=0, show_default=True)
@torch.no_grad()
def main(
    name: str, gan: str | None, teacher: str | None, data: Path, out: Path, images: int, rows: int, k: int, seed: int
) -> None:
    if (gan is None) == (teacher is None):
        raise click.UsageError("give either --gan or --teacher")
    train, held_out = (datasets.load(name, data, split).pixels for split in ("train", "test"))
    samples = draw(gan, teacher, images, seed)
    distances, index = nearest(samples, train, k)
    shown = [torch.cat([sample[None], train[found]]) for sample, found in zip(samples[:rows], index, strict=False)]
    save_png(out, tile(torch.cat(shown), k + 1))
    click.echo(
        f"nearest training image, minimum, quartiles and maximum of {len(samples)} samples: {quartiles(distances[:, 0])}"
    )
    usual = nearest(held_out, train, 1)[0][:, 0]
    click.echo(f"the same of {len(held_out)} held-out images: {quartiles(usual)}")


if __name__ == "__main__":
    main()
