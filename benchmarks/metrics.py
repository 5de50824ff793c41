"""Time and memory of the metrics: `python benchmarks/metrics.py [--fashion=FOLDER]`. Needs Linux.

Prints a table: all metrics of 10,000 images in one pass of the embedded detector, and the Frechet distance at 2,048
dimensions against the usual implementation with scipy.linalg.sqrtm.
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
from gan_refine.evaluation import generator_images
from gan_refine.generators import StyleGan2
from gan_refine.interfaces import PixelBytes
from gan_refine.metrics import (
    FeatureStatistics,
    MetricCollection,
    Requirements,
    frechet_distance,
    open_detector,
    parse_metrics,
    reference_of,
)
from recipes import fashion

METRICS = "fd,infinity=true,kd,is,pr,dc"


def images_of(folder: str | None, count: int) -> tuple[PixelBytes, PixelBytes]:
    """Generated and real 16x16 images; without the data set the embedded GAN's with another seed stand in for real ones."""
    generator = StyleGan2.load(assets.resolve("gan", "fashion16"))
    fake = torch.cat([images for _, images in generator_images(generator, count, seed=0)])
    if folder is not None:
        return fake, fashion.load(Path(folder), "fashion16", "train").pixels[:count]
    return fake, torch.cat([images for _, images in generator_images(generator, count, seed=1)])


def one_pass(fake: PixelBytes, real: PixelBytes) -> dict[str, str]:
    """Seconds of the detector's pass and of the metrics after it, and the peak of the memory that both add."""
    detector = open_detector("fashion16")
    statistics = FeatureStatistics(detector, len(real), Requirements(sample=True))
    for first in range(0, len(real), 250):
        statistics.update(detector.outputs(real[first : first + 250]), first)
    reference = reference_of(statistics)
    before, started = forget_peak(), time.perf_counter()
    metrics = MetricCollection(detector, reference, len(fake), parse_metrics(METRICS))
    for first in range(0, len(fake), 250):
        metrics.update(fake[first : first + 250], first)
    seen = time.perf_counter()
    values = metrics.result()
    done = time.perf_counter()
    rows = {
        f"one pass of {len(fake):,} images": f"{seen - started:.1f} s",
        "all metrics from it": f"{done - seen:.1f} s",
    }
    rows["peak memory"] = f"{peak_mib():.0f} MiB, of which {peak_mib() - before:.0f} MiB are the metrics'"
    return rows | {name: f"{value:.4f}" for name, value in values.items()}


def forget_peak() -> float:
    """Resets the peak of the resident memory to its present size, and returns it in MiB. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mib()


def peak_mib() -> float:
    """The largest resident memory since `forget_peak`, in MiB. Linux only."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def matrix_root(dimensions: int) -> dict[str, str]:
    """Processor time of our Frechet distance and of the one by scipy.linalg.sqrtm, with covariances of 3 d vectors."""
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
    "--fashion",
    "folder",
    default=None,
    help="Folder with Fashion-MNIST's four files; without it generated images stand in.",
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
