"""The result of a run: summary.json, and the table on the terminal."""

import dataclasses
import json
from dataclasses import dataclass

from gan_refine.evaluation.statistics import PairedComparison, estimate, gap_closed


@dataclass(frozen=True)
class RecallSummary:
    """Recall of the teacher's samples by the original, by the best snapshot, and by other teacher samples; None if not measured."""

    name: str
    before: float | None
    after: float | None
    teacher: float

    def row(self) -> str:
        """The text of the table."""
        before, after = ("not measured" if value is None else f"{value:.3f}" for value in (self.before, self.after))
        return f"{before} -> {after}, teacher {self.teacher:.3f}"


@dataclass(frozen=True)
class Summary:
    """The content of summary.json. Distances are None with --metrics=none, and the teacher's also if it was not measured.

    Distances are of the first metric, which selects the best snapshot; `before` is the original's, `after` the best's.
    """

    gan: str
    teacher: str
    metric: str | None
    before: float | None
    after: float | None
    teacher_value: float | None
    kimg: float
    seconds: float
    refined: str
    repeated: PairedComparison | None = None  # original and best snapshot on latents that did not select it
    recall: RecallSummary | None = None
    data_free_gap: tuple[float | None, float | None] = (None, None)  # nats, at the first and last tick with an estimate
    complete: bool = True  # False if the run was stopped before its end

    @property
    def improved(self) -> bool:
        """Whether the best snapshot has a lower distance than the original."""
        return self.before is not None and self.after is not None and self.after < self.before

    @property
    def gap_closed(self) -> float | None:
        """(before - after) / (before - teacher); None if one is unknown, or if the teacher is not better than the original."""
        if self.before is None or self.after is None or self.teacher_value is None:
            return None
        return gap_closed(self.before, self.after, self.teacher_value)

    @property
    def verdict(self) -> str:
        """The change with its confidence interval, in words."""
        assert self.before is not None and self.after is not None, "used only with a metric"
        if self.repeated is not None:
            return self.repeated.describe()
        change = PairedComparison([self.before], [self.after]).describe()
        return f"{change}; the best snapshot was selected on these latents, which biases the change towards better"

    def to_json(self) -> str:
        """The text of summary.json."""
        record = dataclasses.asdict(self) | {"gap_closed": self.gap_closed, "improved": self.improved}
        record["repeated"] = None if self.repeated is None else self.repeated.record()
        return json.dumps(record, indent=2) + "\n"

    def rows(self) -> list[tuple[str, str]]:
        """The rows of the table on the terminal: names and values."""

        def text(value: float | None, form: str = ".3f") -> str:
            return "not measured" if value is None else format(value, form)

        held_out = []
        if self.repeated is not None:
            change = f"{estimate(self.repeated.before)} -> {estimate(self.repeated.after)}"
            held_out = [("held-out latents", change)]
        recall = [] if self.recall is None else [("recall", self.recall.row())]
        length = [("images", f"{self.kimg:g} thousand"), ("seconds", f"{self.seconds:.0f}")]
        if self.metric is None:
            first, last = self.data_free_gap
            gap = text(first) if last is None else f"{text(first)} -> {text(last)}"
            return [("metric", "none"), ("data-free gap", f"{gap} nats"), *recall, *length]
        return [
            ("metric", self.metric),
            ("before", text(self.before)),
            ("after", text(self.after)),
            *held_out,
            ("teacher", text(self.teacher_value)),
            ("gap closed", text(self.gap_closed, ".1%")),
            *recall,
            *length,
        ]
