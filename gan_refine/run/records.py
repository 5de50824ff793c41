"""What a run folder says of its run, read as data: options, figures, evaluations, summary, log. The run may still go on."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from gan_refine.errors import FileFormatError
from gan_refine.run.choice import Ranked, choose
from gan_refine.run.options import RunOptions, read_options

Json = dict[str, object]
METRIC_FILE = "metric-*.jsonl"


@dataclass(frozen=True)
class Evaluation:
    """One value of one yardstick: of the original at 0 kimg, else of the snapshot."""

    kimg: float
    value: float
    snapshot: str
    left_out: tuple[float, ...] = ()  # the value without each of the parts of the images, if it ranks


@dataclass(frozen=True)
class RunRecord:
    """A run folder as it is now. `summary` is empty until the run has ended or was stopped."""

    folder: Path
    options: RunOptions
    stats: list[Json] = field(default_factory=list)
    curves: dict[str, list[Evaluation]] = field(default_factory=dict)  # by the yardstick's name
    summary: Json = field(default_factory=dict)
    log: str = ""
    better: dict[str, str] = field(default_factory=dict)  # higher or lower, by the figure's name, if either is

    def number(self, name: str) -> float | None:
        """A number of summary.json; None if it was not measured or is not known yet."""
        return _number(self.summary.get(name))

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each part of the run; empty before its end, and for one of an earlier version."""
        found = self.summary.get("parts")
        return {name: float(seconds) for name, seconds in found.items()} if isinstance(found, dict) else {}

    def series(self, name: str) -> list[tuple[float, float]]:
        """A figure of stats.jsonl over kimg, without the ticks that have none."""
        pairs = [(_number(line.get("kimg")), _number(line.get(name))) for line in self.stats]
        return [(kimg, value) for kimg, value in pairs if kimg is not None and value is not None]

    @property
    def first_curve(self) -> list[Evaluation]:
        """The curve of the metric that selects the best snapshot; empty with --metrics=none."""
        name = self.summary.get("metric")
        if isinstance(name, str) and name in self.curves:
            return self.curves[name]
        named, detector = self.options.metrics.split(",")[0], self.options.detector[0]
        found = {metric: curve for metric, curve in self.curves.items() if metric.startswith(named)}
        return next((curve for metric, curve in found.items() if detector in metric), next(iter(found.values()), []))

    @property
    def best(self) -> Evaluation | None:
        """That of the snapshot that is kept as the best, or of the original; None without a metric."""
        if not self.first_curve:
            return None
        original, *snapshots = (Ranked(each.value, each.left_out) for each in self.first_curve)
        chosen = choose(original, snapshots)
        return self.first_curve[0 if chosen is None else 1 + chosen]

    def at_best(self, name: str) -> float | None:
        """The yardstick's value at the best snapshot."""
        return next((each.value for each in self.curves[name] if self.best and each.kimg == self.best.kimg), None)

    @property
    def best_pickle(self) -> Path:
        return self.folder / "network-refined-best.pkl"


def read_run(folder: Path) -> RunRecord:
    """The record of a run folder. Raises FileFormatError for a folder of anything else."""
    if not folder.is_dir():
        raise FileFormatError(f"{folder} is not a folder; give the folder of a run, such as training-runs/00000-NAME")
    options = read_options(folder)
    summary, log = folder / "summary.json", folder / "log.txt"
    return RunRecord(
        folder,
        options,
        read_lines(folder / "stats.jsonl"),
        _curves(folder),
        json.loads(summary.read_text()) if summary.is_file() else {},
        log.read_text() if log.is_file() else "",
        _better(folder),
    )


def read_lines(path: Path) -> list[Json]:
    """The JSON lines of a file; none if it does not exist. A last line that is being written at this moment is left out."""
    found: list[Json] = []
    for line in path.read_text().splitlines(keepends=True) if path.is_file() else ():
        if line.endswith("\n"):
            found.append(json.loads(line))
    return found


def _curves(folder: Path) -> dict[str, list[Evaluation]]:
    found: dict[str, list[Evaluation]] = {}
    for path in sorted(folder.glob(METRIC_FILE)):
        for line in read_lines(path):
            results, kimg = line.get("results"), _number(line.get("kimg"))
            assert isinstance(results, dict) and kimg is not None, f"{path.name} holds evaluations"
            for name, value in results.items():
                if (number := _number(value)) is not None:
                    left_out = line.get("left_out", []) if name == line.get("metric") else []
                    assert isinstance(left_out, list), f"{path.name} holds evaluations"
                    found.setdefault(name, []).append(
                        Evaluation(kimg, number, str(line.get("snapshot", "")), tuple(left_out))
                    )
    return found


def _better(folder: Path) -> dict[str, str]:
    """As the metrics say it in their files."""
    found: dict[str, str] = {}
    for path in sorted(folder.glob(METRIC_FILE)):
        for line in read_lines(path)[:1]:
            directions = line.get("better")
            found |= {name: str(each) for name, each in directions.items()} if isinstance(directions, dict) else {}
    return found


def text_of(value: float | None) -> str:
    """A figure as pages show it; a dash for one that was not measured."""
    return "-" if value is None else f"{value:.4g}"


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
