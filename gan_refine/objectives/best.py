"""What came out best of the sweep in docs/results.md: Diff-Instruct for pools, seen with the eyes of the GAN's discriminator."""

from dataclasses import dataclass

from torch import nn

from gan_refine.config import require
from gan_refine.interfaces import Denoiser, Images, PerSample
from gan_refine.objectives.critics import takes
from gan_refine.objectives.diff_instruct import DiffInstruct, DiffInstructOptions
from gan_refine.objectives.features import Features, knows


@dataclass(frozen=True)
class BestOptions(DiffInstructOptions):
    """Diff-Instruct's options with a narrow law of sigma and an averaged score model, and how pools are learnt."""

    sigma_mean: float = -0.6
    sigma_std: float = 0.3
    score_ema: int = 2000
    feature_weight: float = (
        0.25  # of the difference in the discriminator's features, for each pixel value; 0: pixels alone
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require("feature_weight", self.feature_weight, self.feature_weight >= 0, "a number of at least 0")


class Best(DiffInstruct):
    """Diff-Instruct's gradient D_g - D_d, eq. 3.2 of arXiv:2305.18455, and a perceptual distance to what it moves images to.

    Squared error between pixels asks for the mean of all that a latent could become, which is a blur; beside it the generator
    lowers the distance between activations of the GAN's own discriminator, which knows no data that the file does not.
    `critic` is that discriminator; without one that takes the teacher's size, pixels are all there is.
    """

    Options = BestOptions

    def __init__(self, teacher: Denoiser, options: BestOptions | None = None, critic: nn.Module | None = None) -> None:
        super().__init__(teacher, options)
        self.weight = (options or BestOptions()).feature_weight
        usable = bool(self.weight) and critic is not None and takes(critic, teacher.spec) and knows(critic)
        self.features = Features(critic) if usable and critic is not None else None

    def difference(self, fake: Images, target: Images) -> PerSample:
        """What the generator lowers over a pool: |fake - target|^2 and `feature_weight` times as many feature differences."""
        error = (fake - target).square().flatten(1).sum(1)
        if self.features is None:
            return error
        return error + self.weight * fake[0].numel() * self.features.difference(fake, target)
