"""The distance of every kept snapshot of a GAN's training: `python recipes/curves.py fashion16 gan16-0016k.pt ...`."""

import sys
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine import assets
from gan_refine.generators import StyleGan2
from gan_refine.metrics import Panel, load_detector, load_reference
from gan_refine.networks.stylegan2 import Generator
from gan_refine.report import distance_of_generator
from recipes.train_gan import generator_kwargs


@click.command()
@click.argument("name")
@click.argument("snapshots", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--images", type=int, default=10_000, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
def main(name: str, snapshots: tuple[Path, ...], images: int, threads: int) -> None:
    torch.set_num_threads(threads)
    detector = load_detector(assets.PRETRAINED / f"{name}-detector.safetensors")
    reference = load_reference(assets.PRETRAINED / f"{name}-reference.npz")
    for path in snapshots:
        net = Generator(**generator_kwargs(name))
        net.load_state_dict(torch.load(path, weights_only=True))
        value = distance_of_generator(StyleGan2(net), lambda: Panel(detector, reference, images), images, 0)
        click.echo(f"{path.name}: {value:.3f}")


if __name__ == "__main__":
    main()
