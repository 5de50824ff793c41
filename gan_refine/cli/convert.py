"""`python -m gan_refine convert IN OUT`: networks from one file format into another, without running anything in them."""

from pathlib import Path

import click

from gan_refine.cli.options import PATH, trust_pickle_option


@click.command(context_settings={"show_default": True})
@click.argument("source", metavar="IN", type=PATH)
@click.argument("destination", metavar="OUT", type=PATH)
@click.option(
    "--which",
    type=click.Choice(["G_ema", "G"]),
    default="G_ema",
    help="The GAN's generator for a state dict.",
)
@trust_pickle_option("Networks")
def convert(source: str, destination: str, which: str, trust_pickle: bool) -> None:
    """Convert networks: TensorFlow's StyleGAN2 to a PyTorch pickle, a pickle to a state dict, a state dict to a pickle.

    IN is a network pickle, or a state dict (.safetensors, .pt, .pth) with its description beside it as .json. OUT ends in .pkl or
    .safetensors; the latter gets a .json beside it and holds one network. Prints the names of the files written.
    """
    from gan_refine.assets import refuse_name
    from gan_refine.run import convert as work

    refuse_name(source)
    work.convert(Path(source), Path(destination), which, trust_pickle)
