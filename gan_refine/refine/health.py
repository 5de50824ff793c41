"""What the loop measures while it runs: means by band of sigma, gradient norms, what was not finite."""

import math
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from gan_refine.foundation import distributed
from gan_refine.interfaces import Loss

# Bounds of the bands of sigma in which health is reported, about one unit of ln sigma each.
SIGMA_BANDS = (0.02, 0.06, 0.18, 0.54, 1.6, 5.0, 15.0, 80.0)
NUM_BANDS = len(SIGMA_BANDS) - 1


class HealthRecord(TypedDict):
    """A Health as a checkpoint holds it."""

    sums: dict[str, list[float]]
    counts: list[float]
    norms: dict[str, list[float]]
    totals: list[int]


@dataclass
class Health:
    """Means since the last report: by band of sigma for each figure, gradient norms, and what was not finite.

    Tensors stay on the device that they come from, and nothing is read before somebody asks.
    """

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: Tensor = field(default_factory=lambda: torch.zeros(NUM_BANDS, dtype=torch.float64))
    norms: dict[str, list[Tensor]] = field(default_factory=lambda: {"generator": [], "auxiliary": []})  # of all steps
    samples: int = 0
    nonfinite_samples: Tensor = field(default_factory=lambda: torch.zeros([], dtype=torch.int64))

    @torch.no_grad()
    def add(self, loss: Loss) -> None:
        """Counts one micro-batch of the generator's loss; samples that are not finite only count as such."""
        logs = {name: values.double() for name, values in loss.logs.items()}
        self.samples += len(loss.per_sample)
        self.nonfinite_samples = (~loss.per_sample.isfinite()).sum() + self.nonfinite_samples
        bounds_below = [loss.sigma.double() >= bound for bound in SIGMA_BANDS]
        band = torch.stack(bounds_below).sum(0) - 1
        inside = (band >= 0) & (band < NUM_BANDS)
        for values in (loss.per_sample, *logs.values()):
            inside &= values.isfinite()
        band = band.clamp(0, NUM_BANDS - 1)
        self.counts = self.counts.to(band.device, non_blocking=True).index_add_(0, band, inside.double())
        for name, values in logs.items():
            total = self.sums.get(name, torch.zeros_like(self.counts)).to(band.device, non_blocking=True)
            self.sums[name] = total.index_add_(0, band, values.where(inside, 0.0))

    def bands(self, name: str) -> list[float | None]:
        """Mean of a figure in each band; None where no sample fell."""
        pairs = zip(self.sums[name].tolist(), self.counts.tolist(), strict=True)
        return [s / n if n else None for s, n in pairs]

    def finite_norms(self, name: str) -> list[float]:
        """The gradient norms of the steps that were not skipped."""
        return [norm for norm in _numbers(self.norms[name]) if math.isfinite(norm)]

    @property
    def skipped_steps(self) -> int:
        return sum(not math.isfinite(norm) for norms in self.norms.values() for norm in _numbers(norms))

    def remaining_nats(self) -> float | None:
        """Estimate of KL(generator || teacher) over the bands seen, in nats an image; None without a score model.

        The integral of sigma |s_g - s_d|^2 over sigma is that of |D_g - D_d|^2 / sigma^2 over ln sigma. It needs no data, and
        is only as good as the score model.
        """
        if "nats" not in self.sums:
            return None
        widths = np.diff(np.log(SIGMA_BANDS))
        return float(sum(w * mean for w, mean in zip(widths, self.bands("nats"), strict=True) if mean is not None))

    def summary(self) -> dict[str, object]:
        """Everything, as plain numbers for a JSON record."""
        record: dict[str, object] = {name: self.bands(name) for name in sorted(self.sums)}
        record["band_samples"] = [int(count) for count in self.counts.tolist()]
        record["remaining_nats"] = self.remaining_nats()
        record["nonfinite_share"] = int(self.nonfinite_samples) / max(self.samples, 1)
        record["skipped_steps"] = self.skipped_steps
        for name in self.norms:
            values = self.finite_norms(name)
            record[f"{name}_gradient_norm"] = float(np.mean(values)) if values else None
        return record

    def across_processes(self) -> "Health":
        """That of all processes together. Norms and skipped steps are those of common steps, equal everywhere."""
        whole = Health(norms={name: list(values) for name, values in self.norms.items()})
        names = sorted(self.sums)
        rows = distributed.sum_across(torch.stack([self.counts, *(self.sums[name] for name in names)]))
        whole.counts, whole.sums = rows[0], dict(zip(names, rows[1:], strict=True))
        samples = torch.full_like(self.nonfinite_samples, self.samples)
        totals = distributed.sum_across(torch.stack([samples, self.nonfinite_samples]))
        whole.samples, whole.nonfinite_samples = int(totals[0]), totals[1]
        return whole

    def record(self) -> HealthRecord:
        """For a checkpoint: of all processes together. Every process must call it."""
        whole = self.across_processes()
        sums = {name: values.tolist() for name, values in whole.sums.items()}
        norms = {name: whole.finite_norms(name) for name in whole.norms}
        totals = [whole.samples, int(whole.nonfinite_samples), whole.skipped_steps]
        return {"sums": sums, "counts": whole.counts.tolist(), "norms": norms, "totals": totals}

    @staticmethod
    def from_record(record: HealthRecord) -> "Health":
        """The first process goes on with all that was counted; the others add nothing to it but know the same figures."""
        share = 1 if distributed.is_rank0() else 0
        sums = {name: torch.tensor(values, dtype=torch.float64) * share for name, values in record["sums"].items()}
        norms = {name: [torch.tensor(value) for value in values] for name, values in record["norms"].items()}
        samples, nonfinite, skipped = record["totals"]
        norms["generator"] += [torch.tensor(math.nan)] * skipped  # whichever network's they were
        counts = torch.tensor(record["counts"], dtype=torch.float64) * share
        return Health(sums, counts, norms, samples * share, torch.tensor(nonfinite * share))


def _numbers(values: list[Tensor]) -> list[float]:
    return torch.stack([value.to(values[-1].device) for value in values]).tolist() if values else []
