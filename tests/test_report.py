"""report.html and `gan-refine report`: what a page holds, that it asks nothing of anyone, what it warns of."""

import html
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from gan_refine.cli import cli
from gan_refine.cli.refine import refine, run_options
from gan_refine.errors import UserError
from gan_refine.run.advice import warnings_of
from gan_refine.run.charts import Chart, Series
from gan_refine.run.command import command_line
from gan_refine.run.figures import snapshot_table, summary_tables
from gan_refine.run.options import RunOptions
from gan_refine.run.page import charts, headline, write_report
from gan_refine.run.records import Evaluation, RunRecord, read_lines, read_run

SECTIONS = ["The same latents before and after", "Figures", "Curves", "What changed", "Truncation"]
SECTIONS += ["Interpolation between two latents", "The teacher", "The run"]


def report(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)])


def test_a_run_leaves_a_page_with_every_section(tiny_run: Path) -> None:
    page = re.sub("</?span.*?>", "", html.unescape((tiny_run / "report.html").read_text()))
    assert re.findall(r"<h2>(.*?)</h2>", page) in ([*SECTIONS], ["Warnings", *SECTIONS])
    summary = json.loads((tiny_run / "summary.json").read_text())
    options = json.loads((tiny_run / "options.json").read_text())
    for text in (
        options["gan_sha256"],
        options["teacher_sha256"],
        summary["verdict"].replace("+-", "±").replace("->", "→"),
        "gan-refine refine --gan=",
    ):
        assert text in page
    for name in (summary["metric"], "data-free gap by band of sigma", "gradient norm, generator", "images a second"):
        assert f"<b>{name}</b>" in page
    assert page.count("data:image/png;base64,") >= 10
    assert "The run has ended." in page
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in summary["parts"].items() if seconds >= 0.5)
    assert "learning" in summary["parts"] and f": {parts}</dd>" in page
    assert '<div class="columns charts"><figure' in page


def test_a_page_holds_all_that_it_shows(tiny_run: Path) -> None:
    page = (tiny_run / "report.html").read_text()
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)|url\(([^)]*)|@import|fetch\(|<script""", page)
    assert addresses and all(source.startswith("data:") and not css for source, css in addresses)
    assert len(page) < 3_000_000


def test_a_page_is_made_again_while_the_run_goes_on(tiny_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    for name in ("summary.json", "report.html", "teacher_samples.png"):
        (folder / name).unlink()
    with open(folder / "stats.jsonl", "a") as stream:
        stream.write('{"kimg": 0.3, "seco')  # being written
    ended = report(folder)
    assert ended.stdout == f"{folder / 'report.html'}\n", ended.output
    page = (folder / "report.html").read_text()
    assert "The run goes on or was stopped." in page
    assert "<h2>The teacher</h2>" not in page


def test_several_runs_are_compared_on_one_page(tiny_run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_run, tmp_path / "other<b>")
    options = json.loads((other / "options.json").read_text())
    options["refine"]["glr"] = 0.125
    (other / "options.json").write_text(json.dumps(options))
    ended = report(tiny_run, other, f"--out={tmp_path / 'both.html'}")
    assert ended.stdout.splitlines()[-1] == str(tmp_path / "both.html"), ended.output
    page = (tmp_path / "both.html").read_text()
    assert "other&lt;b&gt;" in page and "other<b>" not in page  # names of files are no markup
    assert "<td>glr</td>" in page and "<td>0.125</td>" in page
    assert page.count("<polyline") >= 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["{tmp}"], "so it is not the folder of a run; give one"),
        (["{tmp}/x"], "is not a folder"),
    ],
)
def test_bad_input(tmp_path: Path, arguments: list[str], message: str) -> None:
    ended = report(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert isinstance(ended.exception, UserError) and message in str(ended.exception)


def test_the_command_of_a_page_gives_the_options_again(tiny_run: Path) -> None:
    options = read_run(tiny_run).options
    words = command_line(options).removeprefix("gan-refine refine ").split(" ")
    parsed = refine.make_context("refine", words, resilient_parsing=False).params
    parsed = {name: value for name, value in parsed.items() if name not in ("dry_run", "resume")}
    again = run_options(parsed)
    digests = {"gan_sha256": options.gan_sha256, "teacher_sha256": options.teacher_sha256}
    assert {**vars(again), **digests} == vars(options)


# Sentences


def record(values: list[float], stats: list[dict] | None = None, name: str = "fd10k-x", **options: object) -> RunRecord:
    curve = [Evaluation(float(kimg), value, "") for kimg, value in enumerate(values)]
    return RunRecord(Path("run"), RunOptions(**options), stats or [], {name: curve} if values else {}, {})


@pytest.mark.parametrize(
    "values, text",
    [
        ([8.0, 6.0, 7.0], "improved the first metric from 8.000 to 6.000 (lower is better, 25% less), at 1 kimg"),
        ([8.0, 9.0], "did not improve: 8.000 before, 9.000 now (lower is better)"),
        ([], "Nothing was measured, so it is not known whether the images improved"),
    ],
)
def test_the_headline_says_whether_it_worked(values: list[float], text: str) -> None:
    assert text in headline(record(values, metrics="fd"))


def tick(kimg: float, **figures: object) -> dict:
    return {"kimg": kimg, "nonfinite_share": 0.0, "skipped_steps": 0, **figures}


LOSSES = {"score_loss": [None, 0.2, 0.3], "teacher_loss": [None, 0.1, 0.2], "band_samples": [0, 90, 10]}


@pytest.mark.parametrize(
    "given, option",
    [
        (record([8.0, 9.0], metrics="fd"), "lower --glr, or --l2-images=1"),
        (record([8.0, 9.0], metrics="fd", whiten_w=0.1), "lower --glr, or a lower --whiten-w"),
        (record([], [tick(1.0, skipped_steps=3)]), "--clip-grad"),
        (record([], [tick(1.0, nonfinite_share=0.1)]), "--score-lr"),
        (record([], [tick(1.0, **LOSSES)]), "--warmup-kimg"),
        (record([0.5, 0.4], name="recall"), "--l2-images"),
    ],
)
def test_each_trouble_names_the_option_that_helps(given: RunRecord, option: str) -> None:
    (text,) = warnings_of(given).values()
    assert option in text


def test_a_rising_estimate_is_a_trouble() -> None:
    stats = [tick(float(kimg), remaining_nats=1.0 + kimg) for kimg in range(3)]
    (text,) = warnings_of(record([], stats)).values()
    assert "from 1.00 to 3.00 nats" in text and "--score-lr" in text


def test_a_run_that_goes_well_has_no_warnings() -> None:
    # Worse by the plain mean over bands, better on 99 of 100 samples.
    good = {"score_loss": [0.1, 1.5], "teacher_loss": [0.2, 1.2], "band_samples": [99, 1], "remaining_nats": 1.0}
    assert warnings_of(record([8.0, 6.0], [tick(1.0, **good), tick(2.0, **good)], metrics="fd")) == {}


def test_the_metric_says_which_direction_is_better(tiny_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    assert set(read_run(folder).better.values()) == {"lower"}
    name = "nn32-teacher-teacher"
    line = {
        "results": {f"{name}_recall": 0.5, f"{name}_distance": 3.0},
        "better": {f"{name}_recall": "higher"},
        "kimg": 0,
    }
    (folder / f"metric-{name}.jsonl").write_text(json.dumps(line) + "\n")
    found = read_run(folder)
    shown = snapshot_table(found)
    assert shown is not None
    assert {f"{name}_recall\u00a0↑", f"{name}_distance"} <= {row[0] for row in shown.rows}
    notes = {chart.title: chart.note for chart in charts(found)}
    assert notes[f"{name}_recall"] == "higher is better"
    assert notes[f"{name}_distance"] == "neither higher nor lower is better"


def test_a_share_that_is_missing_is_explained() -> None:
    rows = [
        {"name": "before", "values": {"fd": [8.0]}},
        {"name": "after", "values": {"fd": [5.0]}, "shares": {"fd": None}},
    ]
    given = {"detector": "x", "role": "y", "rows": rows, "notes": ["No share of fd."], "better": {"fd": "lower"}}
    (table,) = summary_tables(RunRecord(Path("run"), RunOptions(), summary={"tables": [given]}))
    assert table.headings == ["", "before", "after"]
    assert table.rows == [["fd\u00a0↓", "8", "5"], ["share of the way", "-", "-"]] and table.notes == [
        "No share of fd."
    ]


def test_tables_of_the_summary_appear_whatever_their_figures() -> None:
    rows = [
        {"name": "original", "values": {"fd": [8.0, 9.0]}},
        {"name": "refined", "values": {"fd": [5.0], "kd": [1.0]}},
    ]
    given = RunRecord(Path("run"), RunOptions(), summary={"tables": [{"detector": "x", "role": "y", "rows": rows}]})
    (table,) = summary_tables(given)
    assert table.headings == ["", "original", "refined"]
    assert table.rows == [["fd", "8.50 ±\u00a00.50", "5"], ["kd", "-", "1"]]


# Charts and files


def test_a_chart_draws_every_point_inside_and_escapes_names() -> None:
    chart = Chart("a<b", "", [Series("x&y", [(0.0, 3.0), (10.0, -2.0)]), Series("z", [(5.0, 0.0)])], [("teacher", 1.0)])
    svg = chart.svg(20.0)
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(places) == 3
    assert all(56 <= x <= 448 and 12 <= y <= 206 for x, y in places)
    assert places[0][1] < places[2][1] < places[1][1]  # higher values are above
    assert "a&lt;b" in svg and "x&amp;y" in svg and "teacher 1" in svg


def test_a_chart_of_one_value_has_a_range() -> None:
    assert "nan" not in Chart("", "", [Series("", [(0.0, 0.0)])]).svg()


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"kimg": 1}\n{"kimg": ')
    assert read_lines(tmp_path / "a.jsonl") == [{"kimg": 1}]


# In a browser


def consoles(page: Path, picture: Path, width: int = 1280) -> list[str]:
    """What the browser's console says of a page, of which it takes a picture."""
    line = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    line += [f"--user-data-dir={picture.parent / 'profile'}", f"--window-size={width},2400", f"--screenshot={picture}"]
    ended = subprocess.run([*line, page.as_uri()], capture_output=True, text=True, timeout=300, check=True)
    return [text for text in ended.stderr.splitlines() if ":CONSOLE" in text]


@pytest.mark.browser
def test_a_browser_shows_the_page_without_error_or_request(tiny_run: Path, tmp_path: Path) -> None:
    page, picture = tiny_run / "report.html", tmp_path / "page.png"
    assert "default-src 'none'" in page.read_text()  # so that each request to elsewhere is an error in the console
    assert consoles(page, picture) == []
    with Image.open(picture) as image:
        assert image.width == 1280
        assert len(image.convert("RGB").getcolors(2**20)) > 50  # pictures and curves, no empty page
    bad = tmp_path / "bad.html"
    bad.write_text(page.read_text().replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">'))
    assert any("Content Security Policy" in text for text in consoles(bad, picture))


def test_a_page_is_quick(tiny_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    before = time.process_time()
    write_report(folder)
    assert time.process_time() - before < 3
