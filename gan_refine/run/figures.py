"""The figures of a run as tables of texts: those of summary.json, and one over the snapshots."""

import math
from dataclasses import dataclass, field

from gan_refine.evaluation import FLOOR, estimate
from gan_refine.run.records import RunRecord, text_of

ARROWS = {"lower": "\u00a0↓", "higher": "\u00a0↑"}
LEGEND = (
    f"Lower is better with ↓, higher with ↑; ± is the standard error over sets of latents. The share is that of the way from the "
    f'original to "{FLOOR}", with its 95 % confidence interval.'
)


@dataclass(frozen=True)
class TextTable:
    """Headings, rows of as many cells, and sentences below."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def summary_tables(record: RunRecord) -> list[TextTable]:
    """Those of summary.json, one for each yardstick; none before the end of the run."""
    return [_summary_table(table) for table in _dicts(record.summary.get("tables"))]


def snapshot_table(record: RunRecord) -> TextTable | None:
    """All figures over the snapshots; None if nothing is measured."""
    rows = []
    for name, curve in record.curves.items():
        values = (curve[0].value, record.at_best(name), curve[-1].value, floor_of(record, name))
        rows.append([name + ARROWS.get(record.better.get(name, ""), ""), *(text_of(value) for value in values)])
    headings = ["", "original", "best", "last", FLOOR]
    return TextTable("At the snapshots", headings, rows) if rows else None


def _summary_table(table: dict) -> TextTable:
    """A table of summary.json with a column for each network, which fits on a phone: means over sets of latents, and shares."""
    rows = _dicts(table.get("rows"))
    keys = list(dict.fromkeys(key for row in rows for key in row.get("values", {})))
    shared = {key for row in rows for key in row.get("shares", {})}
    known, better = table.get("headings", {}), table.get("better", {})
    lines = []
    for key in keys:
        shown = known.get(key, key.replace("_", " ")) + ARROWS.get(better.get(key), "")
        lines.append([shown, *(_mean_text(row.get("values", {}).get(key)) for row in rows)])
        if key in shared:
            lines.append(["share of the way", *(_share_text(row.get("shares", {}).get(key)) for row in rows)])
    title = f"{table.get('detector', 'yardstick')} ({table.get('role', 'measured at the end')})"
    headings = ["", *(str(row.get("name", "")) for row in rows)]
    return TextTable(title, headings, lines, [str(note) for note in table.get("notes", [])])


def _share_text(share: object) -> str:
    """A share of the way to the floor, with half the width of its 95 % confidence interval if it has one."""
    if not isinstance(share, dict):
        return "-"
    margin = share.get("margin")
    return f"{share['mean']:.1%}" + ("" if margin is None else f" ±\u00a0{margin:.1%}")


def _mean_text(values: object) -> str:
    """The mean with its standard error, if there are several, in as many decimals as two digits of the error take."""
    if not isinstance(values, list) or not values:
        return "-"
    found = estimate([float(value) for value in values])
    if not found.standard_error:
        return text_of(found.mean)
    decimals = min(max(1 - math.floor(math.log10(found.standard_error)), 0), 4)
    return f"{found.mean:.{decimals}f} ±\u00a0{found.standard_error:.{decimals}f}"


def _dicts(value: object) -> list[dict]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def floor_of(record: RunRecord, name: str) -> float | None:
    """Of other samples of the teacher, the floor of a distance: the mean over the tables' rows of that name."""
    for table in _dicts(record.summary.get("tables")):
        for row in _dicts(table.get("rows")):
            if row.get("name") == FLOOR and row.get("values", {}).get(name):
                return sum(row["values"][name]) / len(row["values"][name])
    return None
