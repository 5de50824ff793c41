"""--labels and --noise-mode: how latents are drawn, in training and in figures."""

import json
from pathlib import Path

import click

from gan_refine.errors import FileFormatError, OptionError, first_line
from gan_refine.generators import AnyFamily, Drawing, StyleGan2
from gan_refine.labels import UNIFORM, parse_frequencies

labels_option = click.option(
    "--labels",
    default=UNIFORM,
    help="How often each class of a conditional generator is drawn: uniform, 0.1,0.2,... or a .json file with a list.",
)
noise_mode_option = click.option(
    "--noise-mode",
    type=click.Choice(["random", "const"]),
    default="random",
    help="Noise inputs of a StyleGAN2: drawn for each batch, or the constant ones of its file.",
)


def spell_out(labels: str) -> str:
    """--labels without a file: its numbers, so that a run does not depend on the file later on. Raises FileFormatError."""
    if not labels.endswith(".json"):
        return labels
    try:
        numbers = json.loads(Path(labels).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"--labels={labels} cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(numbers, list) or not numbers or any(type(number) not in (int, float) for number in numbers):
        raise FileFormatError(f"--labels={labels} holds no list of numbers; write [0.1, 0.2, ...], one for each class")
    return ",".join(repr(number) for number in numbers)


def set_drawing(generator: AnyFamily, labels: str, noise_mode: str) -> AnyFamily:
    """The generator, which from now on draws its latents so. Raises OptionError where it cannot."""
    constant = noise_mode == "const"
    if constant and not isinstance(generator, StyleGan2):
        raise OptionError("--noise-mode=const is for StyleGAN2s, and this generator is of another kind; leave it out")
    generator.drawing = Drawing(parse_frequencies(labels, generator.spec), constant)
    return generator
