"""What metrics cost: `python benchmarks/metrics.py [--fashion=FOLDER]`. Needs scipy beside the project's own packages, and Linux.

Prints a table: all metrics of 10,000 images in one pass of the embedded detector, and the Frechet distance at 2,048
dimensions against the common route through scipy's matrix root.
"""

import platform
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import scipy
import scipy.linalg
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from gan_refine import assets
from gan_refine.generators import load_stylegan2
from gan_refine.interfaces import PixelBytes
from gan_refine.metrics import Needs, Panel, Reference, Statistics, frechet_distance, open_detector, parse_metrics
from gan_refine.report import show_generator
from recipes import fashion

METRICS = "fd,infinity=true,kd,is,pr,dc"


class Collector:
    """Keeps the images that it is shown."""

    name = "images"

    def __init__(self) -> None:
        self.parts: list[PixelBytes] = []

    def update(self, images_uint8: PixelBytes, first: int | None = None) -> None:
        self.parts.append(images_uint8)

    def result(self) -> dict[str, float]:
        return {}


def images_of(folder: str | None, count: int) -> tuple[PixelBytes, PixelBytes]:
    """Generated and real images of 16x16; without the data set the embedded GAN's with two seeds."""
    collectors = [Collector(), Collector()]
    generator = load_stylegan2(assets.resolve("gan", "fashion16"))
    seeds = [0] if folder is not None else [0, 1]
    for seed, collector in zip(seeds, collectors, strict=False):
        show_generator(generator, collector, count, seed)
    fake = torch.cat(collectors[0].parts)
    if folder is not None:
        return fake, fashion.load(Path(folder), "fashion16", "train").pixels[:count]
    return fake, torch.cat(collectors[1].parts)


def one_pass(fake: PixelBytes, real: PixelBytes) -> dict[str, str]:
    """Seconds of the pass and of the figures that follow, and what memory they add at their peak."""
    detector = open_detector("fashion16")
    kept = Statistics(detector, len(real), Needs(sample=True))
    for first in range(0, len(real), 250):
        kept.update(detector.outputs(real[first : first + 250]), first)
    assert kept.sample is not None, "asked for"
    moments = kept.moments.mean, kept.moments.covariance()
    reference = Reference(*moments, len(real), 1, detector.name, kept.sample.features)
    before, started = forget_peak(), time.perf_counter()
    panel = Panel(detector, reference, len(fake), parse_metrics(METRICS))
    for first in range(0, len(fake), 250):
        panel.update(fake[first : first + 250], first)
    seen = time.perf_counter()
    values = panel.result()
    done = time.perf_counter()
    rows = {
        f"one pass of {len(fake):,} images": f"{seen - started:.1f} s",
        "all figures from it": f"{done - seen:.1f} s",
    }
    rows["peak memory"] = f"{peak_mib():.0f} MiB, {peak_mib() - before:.0f} MiB of it for this"
    return rows | {name: f"{value:.4f}" for name, value in values.items()}


def forget_peak() -> float:
    """Linux: makes the present resident memory the peak, and gives it in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def peak_mib() -> float:
    """Linux: the largest resident memory since `forget_peak`, in MiB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def matrix_root(dimensions: int) -> dict[str, str]:
    """Ours and tr((C_a C_b)^(1/2)) by scipy, on covariances of 3 d vectors, in processor time: clocks hear of other work."""
    rng = np.random.default_rng(0)
    sides = [rng.standard_normal([3 * dimensions, dimensions]) * rng.uniform(0.1, 2, dimensions) for _ in range(2)]
    (mean_a, a), (mean_b, b) = ((side.mean(axis=0), np.cov(side, rowvar=False)) for side in sides)
    started = time.process_time()
    ours = frechet_distance(*(torch.from_numpy(x) for x in (mean_a, a, mean_b, b)))
    middle = time.process_time()
    root = scipy.linalg.sqrtm(a @ b).real
    theirs = float(((mean_a - mean_b) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * np.trace(root))
    done = time.process_time()
    return {
        f"Frechet distance, {dimensions} dimensions": f"{middle - started:.1f} s of processor time",
        "the same by scipy.linalg.sqrtm": f"{done - middle:.1f} s, ratio {(done - middle) / (middle - started):.1f}",
        "relative difference of the two": f"{abs(ours - theirs) / theirs:.1e}",
    }


@click.command()
@click.option(
    "--fashion", "folder", default=None, help="Fashion-MNIST's four files; without it generated images stand in."
)
@click.option("--images", type=int, default=10_000, show_default=True)
@click.option("--dimensions", type=int, default=2048, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
def main(folder: str | None, images: int, dimensions: int, threads: int) -> None:
    torch.set_num_threads(threads)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout
    rows = {"machine": f"{platform.processor() or platform.machine()}, {threads} threads"}
    rows |= {"versions": f"torch {torch.__version__}, scipy {scipy.__version__}, commit {commit.strip() or 'unknown'}"}
    rows |= one_pass(*images_of(folder, images))
    rows |= matrix_root(dimensions)
    for name, value in rows.items():
        click.echo(f"{name:<40} {value}")


if __name__ == "__main__":
    main()
