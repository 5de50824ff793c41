"""The table of results: for every yardstick the floor, each network, and its share of the way from the first to the floor."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gan_refine.evaluation.statistics import Interval, PairedComparison, estimate, gap_closed, interval
from gan_refine.evaluation.yardsticks import Yardsticks
from gan_refine.metrics import Result, role

FLOOR = "other teacher samples"
Values = dict[str, list[float]]  # of one network: full name of a figure -> a value for each set of latents


@dataclass(frozen=True)
class Measured:
    """The results of one network with one set of latents; `seconds` is what they took."""

    name: str
    seed: int
    results: list[Result]
    seconds: float = 0.0


@dataclass(frozen=True)
class Row:
    """One network: its figures, and by the name of each distance its share of the way, (before - after) / (before - floor).

    A share is None where it cannot be known; floor and first network have none.
    """

    name: str
    values: Values
    shares: dict[str, Interval | None]

    def cell(self, key: str) -> str:
        """The mean over the sets of latents with its standard error; a dash if it was not measured."""
        return str(estimate(self.values[key])) if key in self.values else "-"

    def record(self) -> dict[str, object]:
        """The row as JSON values."""
        shares = {key: None if share is None else vars(share) for key, share in self.shares.items()}
        return {"name": self.name, "values": self.values, "shares": shares}


@dataclass(frozen=True)
class Table:
    """All rows of one yardstick. `columns` are (full name of a figure, its heading); `role` is what may be chosen by it.

    `better` is higher or lower by full name.
    """

    detector: str
    role: str
    columns: list[tuple[str, str]]
    rows: list[Row]
    better: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, object]:
        """The table as JSON values."""
        rows = [row.record() for row in self.rows]
        return {
            "detector": self.detector,
            "role": self.role,
            "headings": dict(self.columns),
            "better": self.better,
            "rows": rows,
            "notes": self.notes(),
        }

    def lines(self) -> list[str]:
        """The table as text: a title, the headings, a line for each row, and why a share is missing."""
        grid = [["", *self._headings()], *([row.name, *self._cells(row)] for row in self.rows)]
        widths = [max(len(line[column]) for line in grid) for column in range(len(grid[0]))]
        lines = []
        for name, *cells in grid:
            padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append(f"  {name:<{widths[0]}}  {'  '.join(padded)}".rstrip())
        return [f"{self.detector} ({self.role})", *lines, *(f"  {note}" for note in self.notes())]

    def notes(self) -> list[str]:
        """Why a share is missing: a sentence for each distance of which the share is not known."""
        rows = {row.name: row for row in self.rows}
        floor, first = rows.get(FLOOR), self.rows[1 if FLOOR in rows else 0]
        found = []
        for key, heading in self.columns:
            if all(row.shares.get(key, True) is not None for row in self.rows):
                continue
            if floor is None or key not in floor.values:
                found.append(
                    f"No share of {heading} without a floor, for which --teacher and --teacher-steps are needed."
                )
                continue
            near = sum(value <= floor.values[key][0] for value in first.values[key])
            sets = (
                f"{near} of {len(first.values[key])} sets of latents" if len(first.values[key]) > 1 else "these latents"
            )
            found.append(
                f"No share of {heading}: with {sets} {first.name} is as near as other teacher samples, so there is no way to go."
            )
        return found

    def _headings(self) -> list[str]:
        found = []
        for name, heading in self.columns:
            found += [heading, *(["share"] if self._has_share(name) else [])]
        return found

    def _cells(self, row: Row) -> list[str]:
        found = []
        for name, _ in self.columns:
            found.append(row.cell(name))
            if self._has_share(name):
                share = row.shares.get(name)
                found.append("-" if share is None else str(share))
        return found

    def _has_share(self, name: str) -> bool:
        return any(name in row.shares for row in self.rows)


def tabulate(yardsticks: Yardsticks, runs: Sequence[Measured], selected: bool = False) -> list[Table]:
    """A table for each yardstick. The first network is the one before; `selected`: the first yardstick selected a snapshot."""
    tables = []
    for number, yardstick in enumerate(yardsticks.all):
        collections = yardstick.collections(yardsticks.metrics, yardsticks.num_images)
        own = {name for collection in collections for name in collection.names}
        marks = role(yardstick.detector.name) + ("; selected the snapshot" if selected and number == 0 else "")
        first = [result for result in runs[0].results if result.metric in own]
        columns = [(key, _heading(result, key)) for result in first for key in result.values]
        better: dict[str, str] = {key: direction for result in first for key, direction in result.better.items()}
        tables.append(Table(yardstick.detector.name, marks, columns, _rows(yardsticks.floor, runs, first), better))
    return tables


def _rows(floor: Sequence[Result], runs: Sequence[Measured], first: Sequence[Result]) -> list[Row]:
    """The floor, if there is one, and each network, with the figures that `first` has."""
    keys = {key for result in first for key in result.values}
    distances = [result.metric for result in first if result.better.get(result.metric) == "lower"]
    lowest = {key: [value] for result in floor for key, value in result.values.items() if key in keys}
    networks: dict[str, Values] = {}
    for run in runs:
        for key, value in (
            (key, value) for result in run.results for key, value in result.values.items() if key in keys
        ):
            networks.setdefault(run.name, {}).setdefault(key, []).append(value)
    before, rows = networks[runs[0].name], [Row(FLOOR, lowest, {})] if lowest else []
    for name, values in networks.items():
        compared = [] if values is before else distances
        rows.append(Row(name, values, {key: _share(before[key], values[key], lowest.get(key)) for key in compared}))
    return rows


def _share(before: list[float], after: list[float], floor: list[float] | None) -> Interval | None:
    """The share of the way over the sets of latents; None without a floor, or if the first network is as near as it."""
    if floor is None:
        return None
    found = [gap_closed(old, new, floor[0]) for old, new in zip(before, after, strict=True)]
    known = [share for share in found if share is not None]
    return interval(known) if len(known) == len(found) else None


def _heading(result: Result, key: str) -> str:
    """`fd teacher`, `fd data`, `recall`, `distance`."""
    suffix = key.removeprefix(result.metric).lstrip("_")
    main = result.kind if result.kind == "is" else f"{result.kind} {result.source}"
    if not suffix:
        return main
    return suffix if result.source == "teacher" else f"{suffix} {result.source}"


def verdict(tables: Sequence[Table], name: str, subject: str) -> str:
    """Whether the network `name` is nearer to the teacher than the first one by the distance that ranks, in one sentence.

    It is about the `subject`. Further sentences name the other yardsticks that the network is clearly farther in, and, where
    the first one leaves it open, those that it is clearly nearer in.
    """
    share = _share_of(tables[0], name)
    unclear = share is not None and share.margin is not None and share.sign == 0
    nearer = _nearer(tables[1:], name) if unclear else ""
    return f"{subject} {_verdict(tables[0], name)}.{nearer}{_farther(tables[1:], name)}"


def _share_of(table: Table, name: str) -> Interval | None:
    """The network's share of the way by the table's distance, if it has one."""
    return next(row for row in table.rows if row.name == name).shares.get(table.columns[0][0])


def _nearer(tables: Sequence[Table], name: str) -> str:
    shares = [(table.detector, share) for table in tables if (share := _share_of(table, name)) is not None]
    better = [f"{detector} ({share})" for detector, share in shares if share.sign > 0]
    return f" It is nearer in {', '.join(better)}." if better else ""


def _farther(tables: Sequence[Table], name: str) -> str:
    worse = [f"{table.detector} ({change})" for table in tables if (change := _growth(table, name)) is not None]
    return f" It is farther away in {', '.join(worse)}." if worse else ""


def _growth(table: Table, name: str) -> str | None:
    """By how much the distance of the network has clearly grown: its share, or both values where there is none."""
    rows, key = {row.name: row for row in table.rows}, table.columns[0][0]
    before, row = table.rows[1 if FLOOR in rows else 0], rows[name]
    share = row.shares.get(key)
    if share is not None:
        return str(share) if share.margin is not None and share.sign < 0 else None
    compared = PairedComparison(before.values[key], row.values[key])
    grown = table.better.get(key) == "lower" and compared.significant and compared.difference.mean > 0
    return f"{before.cell(key)} -> {row.cell(key)}" if grown else None


def _verdict(table: Table, name: str) -> str:
    rows = {row.name: row for row in table.rows}
    metric, row = table.columns[0][0], rows[name]
    before = table.rows[1 if FLOOR in rows else 0]
    if FLOOR not in rows or metric not in row.shares:  # the latter is no distance
        compared = PairedComparison(before.values[metric], row.values[metric])
        return compared.describe(metric, table.better.get(metric) == "higher")
    change = f"{metric} {before.cell(metric)} -> {row.cell(metric)}, floor {rows[FLOOR].cell(metric)}"
    share = row.shares.get(metric)
    if share is None:
        return (
            f"had no way to go, as the original is as near to the teacher as the teacher's own samples are ({change})"
        )
    if share.margin is None:
        return f"went {share} of the way to the teacher by one set of latents ({change})"
    told = {1: "is nearer to the teacher", 0: "is not clearly nearer to the teacher", -1: "is farther from the teacher"}
    sets = f"95 % confidence interval over {share.count} sets of latents"
    return f"{told[share.sign]}, {share} of the way ({sets}; {change})"
