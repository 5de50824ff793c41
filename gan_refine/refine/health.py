"""What the loop measures while it runs: means by band of sigma, gradient norms, what was not finite."""

from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import torch

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
    """Means since the last report: by band of sigma for each figure, gradient norms, and what was not finite."""

    sums: dict[str, np.ndarray] = field(default_factory=dict)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(NUM_BANDS))
    norms: dict[str, list[float]] = field(default_factory=lambda: {"generator": [], "auxiliary": []})
    samples: int = 0
    nonfinite_samples: int = 0
    skipped_steps: int = 0

    def add(self, loss: Loss) -> None:
        """Counts one micro-batch of the generator's loss; samples that are not finite only count as such."""
        per_sample = loss.per_sample.detach()
        logs = {name: values.detach().double().cpu().numpy() for name, values in loss.logs.items()}
        self.samples += len(per_sample)
        self.nonfinite_samples += int((~per_sample.isfinite()).sum())
        band = np.digitize(loss.sigma.detach().cpu().numpy(), SIGMA_BANDS) - 1
        inside = (band >= 0) & (band < NUM_BANDS)
        for values in (per_sample.cpu().numpy(), *logs.values()):
            inside &= np.isfinite(values)
        np.add.at(self.counts, band[inside], 1)
        for name, values in logs.items():
            np.add.at(self.sums.setdefault(name, np.zeros(NUM_BANDS)), band[inside], values[inside])

    def bands(self, name: str) -> list[float | None]:
        """Mean of a figure in each band; None where no sample fell."""
        totals = self.sums[name]
        return [float(s / n) if n else None for s, n in zip(totals, self.counts, strict=True)]

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
        record["remaining_nats"] = self.remaining_nats()
        record["nonfinite_share"] = self.nonfinite_samples / max(self.samples, 1)
        record["skipped_steps"] = self.skipped_steps
        for name, values in self.norms.items():
            record[f"{name}_gradient_norm"] = float(np.mean(values)) if values else None
        return record

    def across_processes(self) -> "Health":
        """That of all processes together. Norms and skipped steps are those of common steps, equal everywhere."""
        whole = Health(norms={name: list(values) for name, values in self.norms.items()})
        names = sorted(self.sums)
        rows = np.stack([self.counts, *(self.sums[name] for name in names)])
        rows = distributed.sum_across(torch.from_numpy(rows)).numpy()
        whole.counts, whole.sums = rows[0], dict(zip(names, rows[1:], strict=True))
        totals = distributed.sum_across(torch.tensor([self.samples, self.nonfinite_samples]))
        whole.samples, whole.nonfinite_samples = (int(total) for total in totals)
        whole.skipped_steps = self.skipped_steps
        return whole

    def record(self) -> HealthRecord:
        """For a checkpoint: of all processes together. Every process must call it."""
        whole = self.across_processes()
        sums = {name: values.tolist() for name, values in whole.sums.items()}
        totals = [whole.samples, whole.nonfinite_samples, whole.skipped_steps]
        return {"sums": sums, "counts": whole.counts.tolist(), "norms": whole.norms, "totals": totals}

    @staticmethod
    def from_record(record: HealthRecord) -> "Health":
        """The first process goes on with all that was counted; the others add nothing to it but know the same figures."""
        share = 1 if distributed.is_rank0() else 0
        sums = {name: np.array(values) * share for name, values in record["sums"].items()}
        norms = {name: list(values) for name, values in record["norms"].items()}
        samples, nonfinite, skipped = record["totals"]
        return Health(sums, np.array(record["counts"]) * share, norms, samples * share, nonfinite * share, skipped)
