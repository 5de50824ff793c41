"""The embedded pair with classes: what each network makes of a class, measured by the classifier and by the other network."""

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

import run_refine
from gan_refine import assets
from gan_refine.generators import StyleGan2
from gan_refine.interfaces import Latents
from gan_refine.metrics import Detector, open_detector
from gan_refine.noise import add_noise
from gan_refine.objectives.score_model import denoising_loss
from gan_refine.pixels import to_uint8
from gan_refine.sampling import sample_images
from gan_refine.teachers import EdmTeacher, load_edm
from runs import SMALL, last_checkpoint

PAIR = "fashion16-cond"
PER_CLASS = 8


@pytest.fixture(scope="module")
def gan() -> StyleGan2:
    return StyleGan2.load(assets.resolve("gan", PAIR))


@pytest.fixture(scope="module")
def teacher() -> EdmTeacher:
    return load_edm(assets.resolve("teacher", PAIR))


@pytest.fixture(scope="module")
def classifier() -> Detector:
    return open_detector("fashion16")


def asked() -> torch.Tensor:
    return torch.arange(10).repeat_interleave(PER_CLASS)


def made(gan: StyleGan2) -> torch.Tensor:
    """As many images of each class."""
    z = torch.randn([len(asked()), gan.net.z_dim], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return gan(Latents(z, F.one_hot(asked(), 10).to(torch.float32), noise_seed=1))


def share_recognised(classifier: Detector, images: torch.Tensor, classes: torch.Tensor) -> float:
    logits = classifier.outputs(to_uint8(images)).logits
    assert logits is not None
    return float((logits.argmax(1) == classes).to(torch.float32).mean())


def test_the_generator_makes_the_class_that_it_is_asked_for(gan, classifier):
    assert share_recognised(classifier, made(gan), asked()) > 0.75


def test_the_teacher_samples_the_class_that_it_is_told(teacher, classifier):
    rng = torch.Generator().manual_seed(0)
    ((images, labels),) = sample_images(teacher, 100, steps=10, batch=100, rng=rng)
    assert share_recognised(classifier, images, labels.argmax(1)) > 0.6


def test_the_teacher_denoises_the_generators_images_best_as_their_own_class(gan, teacher):
    clean, sigma = made(gan), torch.full([len(asked()), 1, 1, 1], 2.0)
    noisy = add_noise(clean, sigma, torch.Generator().manual_seed(1))
    with torch.no_grad():
        errors = [
            denoising_loss(teacher(noisy, sigma, F.one_hot((asked() + k) % 10, 10).to(torch.float32)), clean, sigma)
            for k in range(10)
        ]
    means = [float(error.mean()) for error in errors]
    assert min(range(10), key=means.__getitem__) == 0 and means[0] < 0.9 * sum(means) / 10


def test_a_run_by_name_is_measured_against_the_reference_that_both_pairs_share(tmp_path):
    arguments = [f"--gan={PAIR}", f"--teacher={PAIR}", *SMALL, "--kimg=0.016", "--eval-images=100"]
    result = CliRunner().invoke(run_refine.cli, [*arguments, f"--outdir={tmp_path}"])
    assert result.exception is None, result.exception
    folder = tmp_path / "00000-tiny"
    assert (folder / "metric-fd100-fashion16.jsonl").is_file()
    assert StyleGan2.load(folder / "network-refined-last.pkl").spec.num_classes == 10
    kept = last_checkpoint(folder)["state"]["objective"]
    assert kept and not any(name.startswith(("features", "teacher")) for name in kept), "these come from the files"


def test_its_teacher_without_the_labels_is_refused(tmp_path):
    result = CliRunner().invoke(run_refine.cli, [f"--teacher={PAIR}", f"--outdir={tmp_path}"])
    assert "needs the class of each" in str(result.exception)
    assert not list(tmp_path.iterdir())
