"""report.html of a run, and the page that compares several: one file each, without anything from elsewhere."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from gan_refine import assets
from gan_refine.config import to_json
from gan_refine.evaluation import FLOOR
from gan_refine.files import atomic_file
from gan_refine.refine import SIGMA_BANDS
from gan_refine.run.advice import warnings_of
from gan_refine.run.charts import Chart, Series
from gan_refine.run.command import command_line, evaluate_line
from gan_refine.run.figures import LEGEND, floor_of, snapshot_table, summary_tables
from gan_refine.run.networks import open_gan
from gan_refine.run.pictures import make_pictures
from gan_refine.run.records import RunRecord, read_run
from gan_refine.run.summary import UNMEASURED
from gan_refine.version import VERSION

if TYPE_CHECKING:
    from jinja2 import Template

REPORT = "report.html"


def write_report(folder: Path, trust: bool = False, device: str = "cpu") -> Path:
    """Writes report.html of a run folder, whether the run has ended or not. Raises UserError."""
    record = read_run(folder)
    original = open_gan(record.options.gan, record.options.which, trust).generator.to(device)
    refined = open_gan(str(_shown(record)), trust=trust).generator.to(device)
    for generator in (original, refined):
        generator.set_latent_options(record.options.labels, record.options.noise_mode)
    pictures = make_pictures(original, refined, folder, record.options.refine.seed)
    text = _template("report.html").render(
        record=record,
        headline=headline(record),
        pictures=pictures,
        shown=_shown(record).name,
        tables=summary_tables(record),
        legend=LEGEND,
        snapshots=snapshot_table(record),
        charts=charts(record),
        warnings=warnings_of(record).values(),
        options=to_json(record.options),
        command=command_line(record.options),
        evaluate=evaluate_line(record.options, str(_shown(record))),
        versions=_versions(),
    )
    path = folder / REPORT
    with atomic_file(path) as stream:
        stream.write(text.encode())
    return path


def write_comparison(folders: list[Path], path: Path) -> Path:
    """Writes one page with the figures, the curves and the last grid of several runs. Raises UserError."""
    records = [read_run(folder) for folder in folders]
    names = sorted({name for record in records for name in record.curves})
    text = _template("compare.html").render(
        records=records,
        headlines=[headline(record) for record in records],
        charts=[_shared_chart(records, name) for name in names],
        differing=_differing(records),
    )
    with atomic_file(path) as stream:
        stream.write(text.encode())
    return path


def _shared_chart(records: list[RunRecord], name: str) -> Chart:
    """One figure of all runs that measured it, of which the first says which direction is better."""
    measured = [record for record in records if name in record.curves]
    lines = [
        Series(record.folder.name, [(each.kimg, each.value) for each in record.curves[name]]) for record in measured
    ]
    return Chart(name, _direction(measured[0], name), lines)


def _differing(records: list[RunRecord]) -> list[list[str]]:
    """The options that are not the same in all runs: name, then one value a run."""
    flat = [{**vars(record.options), **vars(record.options.refine)} for record in records]
    skipped = {"refine", "outdir", "desc", "gan_sha256", "teacher_sha256"}
    names = [name for name in flat[0] if name not in skipped and len({str(each[name]) for each in flat}) > 1]
    return [[name, *(str(each[name]) for each in flat)] for name in names]


def _shown(record: RunRecord) -> Path:
    """The best pickle; the last one while nothing is better than the original."""
    last = record.folder / "network-refined-last.pkl"
    unchanged = record.best_pickle.is_file() and assets.sha256(record.best_pickle) == record.options.gan_sha256
    return last if last.is_file() and (unchanged or not record.best_pickle.is_file()) else record.best_pickle


def headline(record: RunRecord) -> str:
    """Whether it worked so far, in one sentence."""
    curve, best, ended = record.first_curve, record.best, bool(record.summary.get("complete"))
    state = "The run has ended" if ended else "The run goes on or was stopped"
    if best is None:
        return f"{state}. {UNMEASURED}"
    if ended:
        return f"{state}. {record.summary.get('verdict', '')}"
    name = str(record.summary.get("metric") or "the first metric")
    if best.value < curve[0].value:
        change = 1 - best.value / curve[0].value
        return (
            f"{state}. It improved {name} from {curve[0].value:.3f} to {best.value:.3f} (lower is better, {change:.0%} less), "
            f"at {best.kimg:g} kimg."
        )
    return f"{state}. {name} did not improve: {curve[0].value:.3f} before, {curve[-1].value:.3f} now (lower is better)."


def _direction(record: RunRecord, name: str) -> str:
    return f"{record.better[name]} is better" if name in record.better else "neither higher nor lower is better"


def charts(record: RunRecord) -> list[Chart]:
    """Every yardstick, the data-free estimate in all and by band of sigma, gradient norms, learning rate, speed."""
    found = []
    for name, curve in record.curves.items():
        value = floor_of(record, name)
        levels = [] if value is None else [(FLOOR, value)]
        points = [(each.kimg, each.value) for each in curve]
        found.append(Chart(name, _direction(record, name), [Series(name, points)], levels))
    note = (
        "Estimate of KL(generator || teacher) by the score model, in nats an image. It rises where the score model has learned "
        "to see more of the difference, so compare ticks of equal training."
    )
    total = record.series("remaining_nats")
    bands = [line for line in _bands(record) if line.points]
    norms = {name: record.series(f"{name}_gradient_norm") for name in ("generator", "auxiliary")}
    gradients = [
        Chart(f"gradient norm, {name}", "mean of each tick", [Series(name, points)] if points else [])
        for name, points in norms.items()
    ]
    others = [
        Chart("data-free gap", note, [Series("data-free gap", total)] if total else []),
        Chart("data-free gap by band of sigma", "nats for each unit of ln sigma", bands),
        *gradients,
        Chart("images a second", "since the tick before, warm-up included", _speed(record)),
    ]
    return [*found, *(chart for chart in others if chart.series)]


def _bands(record: RunRecord) -> list[Series]:
    found = []
    for number, (low, high) in enumerate(itertools.pairwise(SIGMA_BANDS)):
        points = []
        for line in record.stats:
            nats, kimg = line.get("nats"), line["kimg"]
            if isinstance(nats, list) and isinstance(kimg, float) and nats[number] is not None:
                points.append((kimg, float(nats[number])))
        found.append(Series(f"{low:g} to {high:g}", points))
    return found


def _speed(record: RunRecord) -> list[Series]:
    points, before, start = [], 0.0, 0.0
    for kimg, seconds in record.series("seconds"):
        if seconds > start:
            points.append((kimg, 1000 * (kimg - before) / (seconds - start)))
        before, start = kimg, seconds
    return [Series("images a second", points)] if points else []


def _versions() -> str:
    import platform

    import numpy
    import torch

    return f"gan_refine {VERSION}, torch {torch.__version__}, numpy {numpy.__version__}, Python {platform.python_version()}"


def _template(name: str) -> "Template":
    import jinja2

    loader = jinja2.PackageLoader("gan_refine.run", "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(name)
