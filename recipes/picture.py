"""The picture of the README: `python recipes/picture.py RUN_FOLDER docs/before_after.png`.

The first 5x5 latents of a run's grid by the original, the same by its best pickle, and as many of the teacher's samples.
"""

import json
import sys
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine import assets
from gan_refine.evaluation import grid_latents, render
from gan_refine.generators import StyleGan2
from gan_refine.interfaces import PixelBytes
from gan_refine.noise import rng_for
from gan_refine.pixels import to_uint8
from gan_refine.run.folder import save_png, tile
from gan_refine.sampling import DEFAULT_STEPS, sample_images
from gan_refine.teachers import load_edm

WIDTH, SIDE, GAP = 64, 5, 16  # of an image and of the gaps in pixels; images along each side


def panel(images: PixelBytes) -> np.ndarray:
    """SIDE x SIDE images, every pixel repeated until an image has WIDTH."""
    return tile(images, SIDE).repeat(WIDTH // images.shape[3], axis=0).repeat(WIDTH // images.shape[2], axis=1)


@click.command()
@click.argument("run_folder", type=click.Path(exists=True, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@torch.no_grad()
def main(run_folder: Path, out: Path) -> None:
    options = json.loads((run_folder / "options.json").read_text())
    seed, count = options["refine"]["seed"], SIDE**2
    panels = []
    for path in (assets.resolve("gan", options["gan"]), run_folder / "network-refined-best.pkl"):
        generator = StyleGan2.load(path)
        panels.append(panel(render(generator, grid_latents(generator, seed))[:count]))
    teacher = load_edm(assets.resolve("teacher", options["teacher"]))
    samples = sample_images(teacher, count, steps=DEFAULT_STEPS, batch=count, rng=rng_for(seed, 0, 0, 0))
    panels.append(panel(torch.cat([to_uint8(images) for images, _ in samples])))
    gap = np.full([panels[0].shape[0], GAP, panels[0].shape[2]], 255, dtype=np.uint8)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_png(out, np.concatenate([panels[0], gap, panels[1], gap, panels[2]], axis=1))
    click.echo(str(out))


if __name__ == "__main__":
    main()
