"""The distance of generators with several sets of latents: `python recipes/evaluate.py fashion16 A.pkl B.pkl --seeds=5`.

Every generator gets the same latents, so that differences are paired. Prints each value, the mean and its standard error.
"""

import sys
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine import assets
from gan_refine.cli.gans import find_gan
from gan_refine.metrics import Panel, load_detector, load_reference
from gan_refine.report import distance_of_generator


@click.command()
@click.argument("name")
@click.argument("generators", nargs=-1, required=True)
@click.option("--seeds", type=int, default=5, show_default=True)
@click.option(
    "--first-seed", type=int, default=100, show_default=True, help="Latents that no run used to choose its best."
)
@click.option("--images", type=int, default=10_000, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    name: str, generators: tuple[str, ...], seeds: int, first_seed: int, images: int, threads: int, device: str
) -> None:
    torch.set_num_threads(threads)
    detector = load_detector(assets.resolve("detector", name), device=device)
    reference = load_reference(assets.resolve("reference", name))
    for text in generators:
        generator = find_gan(text).load().to(device)
        values = [
            distance_of_generator(generator, lambda: Panel(detector, reference, images), images, first_seed + k)
            for k in range(seeds)
        ]
        error = np.std(values, ddof=1) / np.sqrt(seeds)
        shown = ", ".join(f"{value:.3f}" for value in values)
        click.echo(f"{text}: mean {np.mean(values):.3f}, standard error {error:.3f} ({shown})")


if __name__ == "__main__":
    main()
