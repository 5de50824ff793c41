"""The baselines without learning: the colour that is taken for flat ground, and what is done to pixels near it."""

import torch
from toys import rng, small_stylegan2

from gan_refine.evaluation.baselines import FlatGround, baselines, flat_colour
from gan_refine.generators import AffineGenerator
from gan_refine.interfaces import Generator, Images, ImageSpec, Latents
from gan_refine.pixels import to_uint8


class Fixed(AffineGenerator):
    """A generator that makes the same images of bytes, whatever the latents."""

    def __init__(self, images: torch.Tensor) -> None:
        super().__init__(1.0, 0.0, ImageSpec(images.shape[1], images.shape[2]))
        self.images = images / 127.5 - 1

    def forward(self, latents: Latents) -> Images:
        return self.images


def shown(generator: Generator) -> torch.Tensor:
    return to_uint8(generator(generator.draw(1, rng())))


def test_grey_pixels_below_16_become_black_and_all_others_stay() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = levels.clone()
    expected[levels < 16] = 0
    assert torch.equal(shown(FlatGround(Fixed(levels), (0,))), expected)


def test_colours_near_the_ground_in_every_channel_become_the_ground() -> None:
    images = torch.full([1, 3, 2, 2], 250, dtype=torch.uint8)
    images[0, 2, 0, 1] = 200  # far from white in one channel only
    cleared = shown(FlatGround(Fixed(images), (255, 255, 255)))
    assert cleared[0, :, 0, 1].tolist() == [250, 250, 200]
    cleared[0, :, 0, 1] = 255
    assert (cleared == 255).all()


def test_the_flat_colour_is_the_most_frequent_one_and_none_in_noise() -> None:
    noise = torch.randint(0, 256, [50, 3, 16, 16], generator=rng()).to(torch.uint8)
    assert flat_colour(noise) is None
    images = noise.clone()
    images[:, :, 3:8] = torch.tensor([200, 7, 255], dtype=torch.uint8).view(3, 1, 1)
    assert flat_colour(images) == (200, 7, 255)


def test_a_stylegan2_has_all_baselines_and_a_generator_of_noise_none() -> None:
    generator = small_stylegan2(16, 0, 0.1)
    found = baselines(generator)
    assert {"psi1.05", "psi0.9"} <= set(found)
    latents = generator.draw(8, rng())
    spread = [
        float(each(latents).std(dim=0).mean().detach()) for each in (found["psi1.05"], generator, found["psi0.9"])
    ]
    assert spread[0] > spread[1] > spread[2]
    assert baselines(AffineGenerator(0.3, 0.0, ImageSpec(3, 16))) == {}
