"""The grouped form of StyleGAN2's modulated convolution against the scaled one: `python benchmarks/convolutions.py`.

Time of the grouped form over that of the scaled one, forward and backward, medians over alternating runs in one process. The
networks take the grouped form for 1x1 kernels on CPUs, where this table favors it, and the scaled one for all else.
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


def seconds(fused: bool, size: tuple[int, int, int], kernel: int, up: int, device: str) -> float:
    """Time of one forward and backward pass: processor time on the CPU, elapsed time on a GPU."""
    n, resolution, channels = size
    x = torch.randn([n, channels, resolution, resolution], device=device, requires_grad=True)
    weight = torch.randn([1 if kernel == 1 else channels, channels, kernel, kernel], device=device, requires_grad=True)
    styles = torch.randn([n, channels], device=device, requires_grad=True)
    f = upfirdn2d.setup_filter([1, 3, 3, 1], device=device) if up > 1 else None
    started = _clock(device)
    y = modulated_conv2d(
        x, weight, styles, up=up, padding=kernel // 2, resample_filter=f, demodulate=kernel > 1, fused=fused
    )
    y.square().sum().backward()
    return _clock(device) - started


def _clock(device: str) -> float:
    if torch.device(device).type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@click.command()
@click.option("--repeats", type=int, default=5, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(repeats: int, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    click.echo(f"torch {torch.__version__}, {device}, {threads} thread(s): grouped / scaled")
    for name, (kernel, up) in LAYERS.items():
        for size in SIZES:
            case = size, kernel, up, device
            pairs = [(seconds(True, *case), seconds(False, *case)) for _ in range(repeats + 1)]
            ratio = statistics.median(grouped / scaled for grouped, scaled in pairs[1:])  # the first pair warms up
            click.echo(f"{name:9s} {size[0]:3d} x {size[2]:3d} channels at {size[1]}x{size[1]}: {ratio:.2f}")


if __name__ == "__main__":
    main()
