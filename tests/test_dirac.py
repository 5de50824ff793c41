"""Generators of one image: equal latents, labels, files, and score distillation's fixed point (Cor. 3.4)."""

import pytest
import torch

from gan_refine.config import RefineOptions
from gan_refine.errors import OptionError
from gan_refine.generators import CoordinateNetwork, DiracImage
from gan_refine.interfaces import Generator, ImageSpec
from gan_refine.objectives import build_objective
from gan_refine.refine import refine
from gan_refine.teachers import GaussianTeacher

SPEC = ImageSpec(channels=3, resolution=4, num_classes=0)
OPTIONS = RefineOptions(total_images=3200, batch=16, batch_gpu=16, warmup_images=0, pool_images=0, glr=0.02)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels() -> torch.Tensor:
    return 0.3 * torch.randn([1, 3, 4, 4], generator=rng())


@pytest.mark.parametrize("make", [lambda: DiracImage(pixels()), lambda: CoordinateNetwork(SPEC, rng())])
def test_latents_are_equal_and_so_are_images_and_every_weight_learns(make, tmp_path):
    generator = make()
    assert isinstance(generator, Generator) and generator.spec == SPEC
    noise = rng()
    latents = generator.draw(5, noise)
    assert torch.equal(noise.get_state(), rng().get_state())
    assert len(latents) == 5 and latents.labels.shape == (5, 0) and latents.noise_seed is None
    assert len(torch.unique(latents.z, dim=0)) == 1
    images = generator(latents)
    assert images.shape == (5, 3, 4, 4) and len(torch.unique(images, dim=0)) == 1
    (images * torch.randn(images.shape)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in generator.parameters())
    generator.export(tmp_path / "image.pt")
    twin = make()
    twin.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in twin.state_dict().items()})
    assert not torch.equal(twin(latents), images)
    twin.load_state_dict(torch.load(tmp_path / "image.pt", weights_only=True))
    assert torch.equal(twin(latents), images)


def test_a_label_is_that_of_every_image():
    latents = DiracImage(pixels(), classes=4, label=2).draw(3, rng())
    assert latents.labels.tolist() == [[0, 0, 1, 0]] * 3
    with pytest.raises(OptionError, match="--label=4 is not allowed; give a class from 0 to 3"):
        DiracImage(pixels(), classes=4, label=4)


def test_a_network_is_the_same_function_in_every_resolution():
    network = CoordinateNetwork(SPEC, rng(), frequency=0.5)
    assert torch.equal(network.at(4), network.image())
    fine = torch.nn.functional.avg_pool2d(network.at(64), 16)
    torch.testing.assert_close(fine, network.image(), atol=0.02, rtol=0)
    assert not torch.equal(CoordinateNetwork(SPEC, rng(1)).image(), CoordinateNetwork(SPEC, rng(2)).image())


def test_score_distillation_takes_the_image_to_the_gaussians_mode():
    image = DiracImage(torch.full([1, 3, 4, 4], -0.4))
    for _ in refine(image, build_objective("sds", GaussianTeacher(0.2, 0.5, SPEC)), OPTIONS):
        pass
    torch.testing.assert_close(image.image(), torch.full([1, 3, 4, 4], 0.2), atol=0.08, rtol=0)


def test_with_the_score_model_of_one_image_diff_instruct_has_the_gradient_of_score_distillation():
    """Cor. 3.4: that score model returns the image, D_g = x."""
    gradients = []
    for spec in ("sds", "diff-instruct"):
        image = DiracImage(torch.full([1, 3, 4, 4], -0.4))
        objective = build_objective(spec, GaussianTeacher(0.2, 0.5, SPEC))
        if spec == "diff-instruct":
            objective.score_model = GaussianTeacher(-0.4, 1e-6, SPEC)
        latents = image.draw(8, rng())
        objective.generator_terms(image(latents), latents.labels, rng(1)).loss.sum().backward()
        gradients.append(image.pixels.grad)
    assert gradients[0].abs().min() > 0
    torch.testing.assert_close(*gradients)
