"""The baseline without learning: distances of GANs with all bytes below 16 set to 0: `python recipes/threshold.py REFINED.pkl`."""

import sys
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine import load_generator
from gan_refine.evaluation.evaluate import evaluate
from gan_refine.interfaces import Generator, Images, Latents

TO_TEACHER = {"reference": "teacher,images=5000", "teacher": "fashion16"}


class Threshold(Generator):
    """The images of `generator` with bytes below 16 set to 0."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator, self.spec = generator, generator.spec

    def draw(self, n: int, rng: torch.Generator) -> Latents:
        return self.generator.draw(n, rng)

    def forward(self, latents: Latents) -> Images:
        images = self.generator(latents)
        return images.where((images * 127.5 + 128).floor() >= 16, -1.0)

    def export(self, path: Path) -> None:
        raise NotImplementedError("a baseline to be measured, not to be written")


@click.command()
@click.argument("gans", nargs=-1)
def main(gans: tuple[str, ...]) -> None:
    for name in ("fashion16", *gans):
        generator = Threshold(load_generator(name))
        to_data = [evaluate(generator, seed=seed)["fd10k-fashion16"] for seed in (100, 101, 102)]
        to_teacher = evaluate(generator, detector="fashion16", images=3000, seed=100, **TO_TEACHER)
        click.echo(f"{name}: to the data {to_data}, to the teacher {to_teacher}")


if __name__ == "__main__":
    main()
