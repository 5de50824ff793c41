"""Our metrics and other implementations on the same images: `python benchmarks/agreement.py FAKES REALS`.

The arguments are two folders of RGB images, the generated ones first. Needs torchvision and, by `pip install --no-deps`,
torch-fidelity, clean-fid and pytorch-fid. All use one Inception network, whose weights are those of
tests/golden/inception.npz; nothing is downloaded.
"""

import contextlib
import importlib
import importlib.metadata
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from inception_weights import all_by_rule

from gan_refine.metrics import (
    MetricCollection,
    frechet_distance,
    open_detector,
    parse_metrics,
    read_images,
    reference_of_images,
)
from gan_refine.metrics.inception import load_inception
from gan_refine.networks.inception import DEPTHS, INPUT_SIZE, Activations, resize_tf1

PEERS = ("torch-fidelity", "clean-fid", "pytorch-fid", "torch", "scipy", "numpy", "pillow")
METRICS = "fd,kd,subset_size={},is,pr"
KEYS = {
    "Frechet": "frechet_inception_distance",
    "kernel, mean": "kernel_inception_distance_mean",
    "kernel, deviation": "kernel_inception_distance_std",
    "inception score": "inception_score_mean",
    "inception score, deviation": "inception_score_std",
    "precision": "precision",
    "recall": "recall",
}


def ours(
    weights: Path, fakes: Path, reals: Path, subset_size: int
) -> tuple[dict[str, float], dict[int, list[np.ndarray]]]:
    """Our metrics, and the float64 features of both folders at every depth, the generated images first."""
    detector = open_detector(f"inception,path={weights}")
    seen: list[Activations] = []
    detector.network.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs))
    reference = reference_of_images(reals, detector)
    files, batches = read_images(fakes)
    metrics = MetricCollection(detector, reference, len(files), parse_metrics(METRICS.format(subset_size)))
    passes = len(seen)
    for images in batches:
        metrics.update(images)
    sides = seen[passes:], seen[:passes]
    features = {d: [torch.cat([part.features[d] for part in side]).double().numpy() for side in sides] for d in DEPTHS}
    return dict(zip(KEYS, metrics.result().values(), strict=True)), features


def fidelity(weights: Path, fakes: Path, reals: Path, subset_size: int) -> dict[str, float]:
    """torch-fidelity's metrics of the two folders, with the images in order, as ours."""
    package = importlib.import_module("torch_fidelity")
    asked = {"fid": True, "kid": True, "isc": True, "prc": True, "samples_shuffle": False}
    found = package.calculate_metrics(
        input1=str(fakes), input2=str(reals), feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        kid_subset_size=subset_size, cuda=False, cache=False, batch_size=50, verbose=False, save_cpu_ram=True, **asked,
    )  # fmt: skip
    return {name: found[key] for name, key in KEYS.items()}


def worst(theirs: Tensor, mine: Tensor) -> float:
    """The largest absolute difference, relative to the largest absolute value of ours."""
    return float((theirs - mine).abs().max() / mine.abs().max())


def network_errors(weights: Path, images: Tensor) -> Iterator[tuple[str, float]]:
    """Relative errors of the outputs of the other implementations' networks against ours."""
    network = load_inception(weights).eval()
    mine = network(images.float())
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    names = [*map(str, DEPTHS), "logits_unbiased", "logits"]
    extractor = module.FeatureExtractorInceptionV3("inception", names, feature_extractor_weights_path=str(weights))
    logits = {"logits_unbiased": mine.logits_unbiased, "logits": mine.logits_unbiased + network.fc.bias}
    wanted = {str(depth): value for depth, value in mine.features.items()} | logits
    for name, value in zip(names, extractor(images), strict=True):
        yield f"torch-fidelity, {name}", worst(value, wanted[name])
    blocks = pytorch_fid_network(weights, resize_input=False)
    resized = resize_tf1(images.float(), INPUT_SIZE) / 256  # it takes [0, 1] and scales to 2 x - 1
    for depth, value in zip(DEPTHS, blocks(resized), strict=True):
        yield f"pytorch-fid, {depth}, our resize", worst(value.mean(dim=(2, 3)), wanted[str(depth)])


def pytorch_fid_network(weights: Path, **options: bool) -> torch.nn.Module:
    """pytorch-fid's network with the weights of the file instead of its download."""
    module: ModuleType = importlib.import_module("pytorch_fid.inception")
    module.load_state_dict_from_url = lambda url, progress: torch.load(weights, weights_only=True)  # type: ignore[attr-defined]
    return module.InceptionV3(range(4), **options).eval()


def distances(features: dict[int, list[np.ndarray]], digits: int = 9) -> Iterator[tuple[str, str]]:
    """The Frechet distances by three implementations, of the same moments at every depth."""
    peers = [importlib.import_module(name) for name in ("pytorch_fid.fid_score", "cleanfid.fid")]
    functions = [peers[0].calculate_frechet_distance, peers[1].frechet_distance]
    for depth, sides in features.items():
        moments = [part for side in sides for part in (side.mean(axis=0), np.cov(side, rowvar=False))]
        values = [frechet_distance(*(torch.from_numpy(part) for part in moments))]
        values += [float(function(*moments)) for function in functions]
        yield f"Frechet, {depth} features", ", ".join(f"{value:.{digits}g}" for value in values)


def at_full_rank() -> tuple[str, str]:
    """The same distances between Gaussian vectors, whose covariances have full rank."""
    rng = np.random.default_rng(0)
    sides = [rng.standard_normal((1000, 128)) * rng.uniform(0.5, 1.5, 128) for _ in range(2)]
    return next(distances({128: sides}, digits=14))


def kernel_in_double(features: dict[int, list[np.ndarray]], subset_size: int) -> dict[str, float]:
    """torch-fidelity's kernel distance of our float64 features."""
    module = importlib.import_module("torch_fidelity.metric_kid")
    sides = map(torch.from_numpy, features[DEPTHS[-1]])
    return module.kid_features_to_metric(*sides, kid_subset_size=subset_size, verbose=False)


def resizes(weights: Path, fakes: Path, reals: Path, count: int) -> Iterator[tuple[str, float]]:
    """clean-fid's distances with its resizing and our network, on the first `count` images of each folder."""
    module = importlib.import_module("cleanfid.fid")
    network = load_inception(weights).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for mode in ("legacy_tensorflow", "clean", "legacy_pytorch"):
        options = {"num_workers": 0, "num": count, "batch_size": 50, "device": "cpu", "mode": mode, "verbose": False}
        model = lambda batch: network(batch).features[DEPTHS[-1]]  # noqa: E731
        sides = [module.get_folder_features(str(path), model, **options).astype(np.float64) for path in (fakes, reals)]
        yield f"clean-fid, mode {mode}", module.fid_from_feats(*sides)
        if mode == "legacy_tensorflow":  # it leaves resizing to the network, so the images are the same as ours
            moments = [part for side in sides for part in (side.mean(axis=0), np.cov(side, rowvar=False))]
            yield "here", frechet_distance(*(torch.from_numpy(part) for part in moments))


@click.command()
@click.argument("fakes", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("reals", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--subset-size", type=int, default=1000, show_default=True, help="Subset size of the kernel distance.")
@click.option(
    "--probe", type=int, default=100, show_default=True, help="Images whose features are compared one by one."
)
@click.option(
    "--resized", type=int, default=500, show_default=True, help="Images of each folder for clean-fid's resizes."
)
@torch.no_grad()
def main(fakes: Path, reals: Path, subset_size: int, probe: int, resized: int) -> None:
    show = lambda name, value: click.echo(f"{name:<40} {value}")  # noqa: E731
    show("versions", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PEERS))
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        weights = Path(folder) / "inception.pth"
        torch.save(all_by_rule(), weights)
        first = next(read_images(fakes)[1])[:probe]
        for name, error in network_errors(weights, first):
            show(f"relative error, {name}", f"{error:.1e}")
        mine, features = ours(weights, fakes, reals, subset_size)
        theirs = fidelity(weights, fakes, reals, subset_size)
        for name in KEYS:
            show(f"{name}: here, torch-fidelity", f"{mine[name]:.10g}, {theirs[name]:.10g}")
        for key, value in kernel_in_double(features, subset_size).items():
            show(f"torch-fidelity in float64, {key[-4:]}", f"{value:.10g}")
        for name, text in distances(features):
            show(f"{name}: here, pytorch-fid, clean-fid", text)
        show("1,000 Gaussian vectors of 128 each", at_full_rank()[1])
        for name, value in resizes(weights, fakes, reals, resized):
            show(f"{resized} images: {name}", f"{value:.9g}")


if __name__ == "__main__":
    main()
