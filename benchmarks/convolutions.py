"""The grouped form of StyleGAN2's modulated convolution against the scaled one: `python benchmarks/convolutions.py`.

Time of the grouped form over that of the scaled one, forwards and backwards, medians over alternating runs in one process.
On CPUs the networks take the form that this table favours for each kernel size; on CUDA they measure at first use.
"""

import statistics
import sys
import time
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from gan_refine.networks.stylegan2 import modulated_conv2d
from torch_utils.ops import upfirdn2d

SIZES = [(64, 16, 64), (64, 8, 64), (16, 32, 128), (4, 64, 256)]  # images, resolution, channels
LAYERS = {"3x3": (3, 1), "3x3 up 2": (3, 2), "1x1": (1, 1)}  # kernel, up


def seconds(fused: bool, size: tuple[int, int, int], kernel: int, up: int) -> float:
    """Processor time of one forward and backward pass."""
    n, resolution, channels = size
    x = torch.randn([n, channels, resolution, resolution], requires_grad=True)
    weight = torch.randn([1 if kernel == 1 else channels, channels, kernel, kernel], requires_grad=True)
    styles = torch.randn([n, channels], requires_grad=True)
    f = upfirdn2d.setup_filter([1, 3, 3, 1]) if up > 1 else None
    started = time.process_time()
    y = modulated_conv2d(
        x, weight, styles, up=up, padding=kernel // 2, resample_filter=f, demodulate=kernel > 1, fused=fused
    )
    y.square().sum().backward()
    return time.process_time() - started


@click.command()
@click.option("--repeats", type=int, default=5, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
def main(repeats: int, threads: int) -> None:
    torch.set_num_threads(threads)
    click.echo(f"torch {torch.__version__}, {threads} thread(s): grouped / scaled")
    for name, (kernel, up) in LAYERS.items():
        for size in SIZES:
            pairs = [(seconds(True, size, kernel, up), seconds(False, size, kernel, up)) for _ in range(repeats + 1)]
            ratio = statistics.median(grouped / scaled for grouped, scaled in pairs[1:])  # the first pair warms up
            click.echo(f"{name:9s} {size[0]:3d} x {size[2]:3d} channels at {size[1]}x{size[1]}: {ratio:.2f}")


if __name__ == "__main__":
    main()
