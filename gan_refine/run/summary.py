"""The result of a run: summary.json, and the tables on the terminal."""

import dataclasses
import json
from dataclasses import dataclass

from gan_refine.evaluation import Table

LEARNS = "The gap rises while the score model learns to see more of it, also where the images improve: compare equal training."
UNMEASURED = "Nothing was measured, so it is not known whether the images improved."


@dataclass(frozen=True)
class Summary:
    """The content of summary.json. `metric` selected the best snapshot: `before` is the original's, `after` the best's.

    They are None with --metrics=none. The tables have the original and the best snapshot on latents that selected neither, unless
    --fid-seeds is 0.
    """

    gan: str
    teacher: str
    metric: str | None
    before: float | None
    after: float | None
    verdict: str
    kimg: float
    seconds: float
    refined: str
    parts: dict[str, float]  # of the seconds, by phase
    tables: tuple[Table, ...] = ()
    data_free_gap: tuple[float | None, float | None] = (None, None)  # nats, at the first and last tick with an estimate
    complete: bool = True  # False if the run was stopped before its end

    @property
    def improved(self) -> bool | None:
        """Whether the best snapshot has a lower distance than the original; None if nothing was measured."""
        return None if self.before is None or self.after is None else self.after < self.before

    def to_json(self) -> str:
        """The text of summary.json."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        tables = [table.record() for table in self.tables]
        return json.dumps(fields | {"tables": tables, "improved": self.improved}, indent=2) + "\n"

    def lines(self) -> list[str]:
        """The tables on the terminal, the length of the run and the verdict."""

        def text(value: float | None) -> str:
            return "not measured" if value is None else f"{value:.3f}"

        lines = [line for table in self.tables for line in [*table.lines(), ""]]
        length = f"{self.kimg:g} thousand images in {self.seconds:.0f} seconds"
        if self.metric is None:
            first, last = self.data_free_gap
            gap = text(first) if last is None else f"{text(first)} -> {text(last)}"
            rose = [LEARNS] if first is not None and last is not None and last > first else []
            return [f"{length}. Metric: none. Data-free gap: {gap} nats.", *rose, self.verdict]
        return [
            *lines,
            f"{length}. {self.metric}, which selects the snapshot: {text(self.before)} -> {text(self.after)} (lower is better).",
            self.verdict,
        ]
