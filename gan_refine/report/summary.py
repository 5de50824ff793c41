"""The end of a run in one record."""

import dataclasses
import json
from dataclasses import dataclass

from gan_refine.report.uncertainty import Paired, estimate, gap_closed


@dataclass(frozen=True)
class RecallSummary:
    """Shares of the teacher's samples that are covered: by the original, by the best pickle, by other teacher samples."""

    name: str
    before: float | None
    after: float | None
    teacher: float

    def row(self) -> str:
        """For the table."""
        before, after = ("not measured" if value is None else f"{value:.3f}" for value in (self.before, self.after))
        return f"{before} -> {after}, teacher {self.teacher:.3f}"


@dataclass(frozen=True)
class Summary:
    """What summary.json holds. Distances are None where no metric was asked for or the teacher's is not known."""

    gan: str
    teacher: str
    metric: str | None
    before: float | None
    after: float | None
    teacher_value: float | None
    kimg: float
    seconds: float
    refined: str
    repeated: Paired | None = None  # original and best with latents that chose nothing
    recall: RecallSummary | None = None
    data_free_gap: tuple[float | None, float | None] = (
        None,
        None,
    )  # nats, at the first tick and the last that had an estimate, if that is another
    complete: bool = True  # False where the run was stopped before its end

    @property
    def improved(self) -> bool:
        """Whether the best snapshot is closer than the original, in the metric."""
        return self.before is not None and self.after is not None and self.after < self.before

    @property
    def gap_closed(self) -> float | None:
        """(before - after) / (before - teacher); None if unknown, or if the teacher is no better than the GAN was."""
        if self.before is None or self.after is None or self.teacher_value is None:
            return None
        return gap_closed(self.before, self.after, self.teacher_value)

    @property
    def verdict(self) -> str:
        """The change in words, against its noise."""
        assert self.before is not None and self.after is not None, "asked for only where there is a metric"
        if self.repeated is not None:
            return self.repeated.words()
        return (
            Paired([self.before], [self.after]).words() + "; the best was chosen with these latents, so it is flattered"
        )

    def to_json(self) -> str:
        record = dataclasses.asdict(self) | {"gap_closed": self.gap_closed, "improved": self.improved}
        record["repeated"] = None if self.repeated is None else self.repeated.record()
        return json.dumps(record, indent=2) + "\n"

    def rows(self) -> list[tuple[str, str]]:
        """For the table on the terminal."""

        def figure(value: float | None, form: str) -> str:
            return "not measured" if value is None else format(value, form)

        repeated = self.repeated
        fresh = (
            []
            if repeated is None
            else [("fresh latents", f"{estimate(repeated.before)} -> {estimate(repeated.after)}")]
        )
        recall = [] if self.recall is None else [("recall", self.recall.row())]
        length = [("images", f"{self.kimg:g} thousand"), ("seconds", f"{self.seconds:.0f}")]
        if self.metric is None:
            first, last = (figure(nats, ".3f") for nats in self.data_free_gap)
            later = "" if self.data_free_gap[1] is None else f" -> {last}"
            return [
                ("metric", "none"),
                ("data-free gap", f"{first}{later} nats"),
                *recall,
                *length,
            ]
        return [
            ("metric", self.metric),
            ("before", figure(self.before, ".3f")),
            ("after", figure(self.after, ".3f")),
            *fresh,
            ("teacher", figure(self.teacher_value, ".3f")),
            ("gap closed", figure(self.gap_closed, ".1%")),
            *recall,
            *length,
        ]
