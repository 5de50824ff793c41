"""Statistics of a stream of images, from which all metrics are computed. Their memory does not grow with the stream."""

import copy
from dataclasses import astuple, dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from gan_refine.errors import MismatchError
from gan_refine.foundation import distributed
from gan_refine.metrics.detectors import Detector, Logits, Outputs
from gan_refine.metrics.moments import Features, Moments

NUM_SPLITS = 10  # of the inception score
NUM_BLOCKS = 8  # parts of the stream, for the extrapolation to infinitely many images
SAMPLE_SIZE = 10_000  # feature vectors kept for nearest neighbors and kernels
Indices = Int64[Tensor, " n"]


class FeatureSample:
    """A uniform sample of at most `capacity` feature vectors, sorted by their index in the stream.

    It keeps the vectors whose indices have the smallest hashes, so it does not depend on order, batches or processes.
    """

    def __init__(self, num_features: int, capacity: int = SAMPLE_SIZE) -> None:
        self.capacity = capacity
        self.features: Float32[Tensor, "m d"] = torch.zeros(0, num_features)
        self.indices: Indices = torch.zeros(0, dtype=torch.int64)

    def update(self, features: Features, indices: Indices) -> None:
        """Adds vectors [n, d] whose indices in the stream are `indices` [n]."""
        if len(self.indices) >= self.capacity:  # most new vectors need not be copied
            keep = hashes(indices) < hashes(self.indices).max()
            features, indices = features[keep.to(features.device)], indices[keep]
        new = features.detach().to("cpu", torch.float32)
        self._keep(torch.cat([self.features, new]), torch.cat([self.indices, indices]))

    def across_processes(self, device: torch.device) -> "FeatureSample":
        """The sample of the vectors of all processes together; `device` is the one that collective operations use."""
        whole = FeatureSample(self.features.shape[1], self.capacity)
        whole._keep(
            distributed.gather_across(self.features.to(device)).cpu(),
            distributed.gather_across(self.indices.to(device)).cpu(),
        )
        return whole

    def _keep(self, features: Tensor, indices: Tensor) -> None:
        chosen = hashes(indices).argsort()[: self.capacity]
        chosen = chosen[indices[chosen].argsort()]
        self.features, self.indices = features[chosen], indices[chosen]


def hashes(indices: Indices) -> Int64[Tensor, " n"]:
    """The finalizer of splitmix64, a bijection of the 64-bit integers, as signed integers of the same order."""
    with np.errstate(over="ignore"):
        x = indices.numpy().astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return torch.from_numpy((x ^ np.uint64(1 << 63)).view(np.int64).copy())


class ClassStatistics:
    """Sums of p(y|x) [splits, classes] and of its negative entropy [splits] over consecutive splits of `num_images` images."""

    def __init__(self, num_images: int, num_splits: int = NUM_SPLITS) -> None:
        self.num_images = num_images
        self.counts = torch.zeros(num_splits, dtype=torch.float64)
        self.negative_entropy = torch.zeros(num_splits, dtype=torch.float64)
        self.probabilities: Float64[Tensor, "splits classes"] = torch.zeros(num_splits, 0, dtype=torch.float64)

    def update(self, logits: Logits, indices: Indices) -> None:
        """Adds logits [n, classes] of the images whose indices in the stream are `indices` [n]."""
        log_p = logits.detach().cpu().to(torch.float64).log_softmax(dim=1)
        if self.probabilities.shape[1] == 0:
            self.probabilities = torch.zeros(len(self.counts), log_p.shape[1], dtype=torch.float64)
        # Image i is in split s where s N // S <= i < (s + 1) N // S.
        split = ((indices + 1) * len(self.counts) - 1) // self.num_images
        self.counts.index_add_(0, split, torch.ones(len(split), dtype=torch.float64))
        self.negative_entropy.index_add_(0, split, (log_p.exp() * log_p).sum(dim=1))
        self.probabilities.index_add_(0, split, log_p.exp())

    def across_processes(self, device: torch.device) -> "ClassStatistics":
        """The sums over all processes; `device` is the one that collective operations use."""
        whole = ClassStatistics(self.num_images, len(self.counts))
        classes = int(distributed.gather_across(torch.tensor([self.probabilities.shape[1]], device=device)).max())
        mine = self.probabilities
        if mine.shape[1] == 0:  # a process that saw no image does not know the number of classes
            mine = mine.new_zeros(len(self.counts), classes)
        whole.counts = distributed.sum_across(self.counts.to(device)).cpu()
        whole.negative_entropy = distributed.sum_across(self.negative_entropy.to(device)).cpu()
        whole.probabilities = distributed.sum_across(mine.to(device)).cpu()
        return whole

    def scores(self) -> Float[Tensor, " splits"]:
        """exp(E_x KL(p(y|x) || p(y))) of each split (arXiv:1606.03498)."""
        marginal = self.probabilities / self.counts[:, None]
        entropy = -torch.special.xlogy(marginal, marginal).sum(dim=1)
        return (self.negative_entropy / self.counts + entropy).exp()


@dataclass(frozen=True)
class Requirements:
    """What a metric needs beside mean and covariance."""

    sample: bool = False  # a sample of feature vectors
    classes: bool = False  # class probabilities, which only a detector with a classifier gives
    blocks: bool = False  # moments of NUM_BLOCKS consecutive parts of the stream
    reference: bool = True

    def __or__(self, other: "Requirements") -> "Requirements":
        both = zip(astuple(self), astuple(other), strict=True)
        return Requirements(*(a or b for a, b in both))


class FeatureStatistics:
    """Statistics of one detector's outputs over `num_images` images: the moments, and what `requirements` ask for."""

    def __init__(self, detector: Detector, num_images: int, requirements: Requirements) -> None:
        self.num_images = num_images
        self.device = detector.device
        self.detector_name = detector.name
        self.moments = Moments(detector.num_features, self.device)
        self.sample = FeatureSample(detector.num_features, SAMPLE_SIZE) if requirements.sample else None
        self.classes = ClassStatistics(num_images) if requirements.classes else None
        num_blocks = NUM_BLOCKS if requirements.blocks else 0  # blocks are merged into the moments at the end
        self.blocks = [Moments(detector.num_features, self.device) for _ in range(num_blocks)]

    def update(self, outputs: Outputs, first: int) -> None:
        """Adds a batch; `first` is the index of its first image in the stream.

        Raises MismatchError for features that are not finite, and for missing logits if classes are required.
        """
        features = outputs.features
        if not features.isfinite().all():
            raise MismatchError(
                f"detector {self.detector_name} gives features that are not finite; check the images and the weights"
            )
        indices = torch.arange(first, first + len(features))
        if self.blocks:
            block = indices * NUM_BLOCKS // self.num_images
            for number in block.unique().tolist():
                self.blocks[number].update(features[(block == number).to(features.device)])
        else:
            self.moments.update(features)
        if self.sample is not None:
            self.sample.update(features, indices)
        if self.classes is not None:
            if outputs.logits is None:
                raise MismatchError(f"detector {self.detector_name} has no classifier, which the inception score needs")
            self.classes.update(outputs.logits, indices)

    def across_processes(self) -> "FeatureStatistics":
        """The statistics over the images of all processes. Every process must call it, and each gets the whole."""
        whole = copy.copy(self)
        whole.blocks = [block.across_processes() for block in self.blocks]
        whole.moments = self.moments.across_processes()
        for block in whole.blocks:
            whole.moments.merge(block)
        whole.sample = None if self.sample is None else self.sample.across_processes(self.device)
        whole.classes = None if self.classes is None else self.classes.across_processes(self.device)
        return whole
