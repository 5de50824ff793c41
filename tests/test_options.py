"""Options of a run: each hyperparameter has a flag, options.json holds what was resolved, a resumed run keeps it."""

import functools
import json
import re
import shlex
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from click.testing import CliRunner

from gan_refine import assets, load_generator
from gan_refine.assets import download
from gan_refine.cli import cli, run_command
from gan_refine.cli.refine import EXAMPLES, KIMG, PRESETS, refine
from gan_refine.config import Range, RefineOptions, build_options, parse_spec, require_ranges, to_json, write_spec
from gan_refine.errors import OptionError, UserError
from gan_refine.interfaces import Generator
from gan_refine.networks.stylegan2 import Generator as StyleGan2Net
from gan_refine.objectives import OBJECTIVES, complete_spec
from gan_refine.pickles import reader, write_gan
from gan_refine.run.build import apply_preset, build, choose_preset
from gan_refine.run.command import command_line, read_config
from gan_refine.run.launch import resume_command
from gan_refine.run.options import RunOptions, absolute, merge_options, options_from_json
from runs import write_pair

FLAGS = {flag for parameter in refine.params for flag in parameter.opts}


def dry_run(*arguments: str) -> dict:
    """The options that a new run would write."""
    with mock.patch.multiple("gan_refine.run.launch", make_plan=lambda run: None, plan_lines=lambda run, plan: []):
        result = CliRunner().invoke(refine, [*arguments, "--dry-run", "--metrics=none", "--device=cpu"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stderr[result.stderr.index("{") : result.stderr.rindex("}") + 1])


def test_every_option_of_the_training_has_a_flag():
    names = {field: name for name, field in KIMG.items()}
    for field in fields(RefineOptions):
        assert f"--{names.get(field.name, field.name).replace('_', '-')}" in FLAGS


def test_help_lists_options_in_groups_with_units_and_examples():
    text = CliRunner().invoke(refine, ["--help"]).output
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == ["Networks", "Training", "Objective", "Evaluation", "Run", "Other", "Examples"]
    assert re.search(r"--kimg KIMG", text) and re.search(r"--gan PKL\|URL\|NAME", text)
    assert text.count("gan-refine refine") + text.count("torchrun") >= 3


def test_the_examples_of_the_help_are_valid():
    for line in EXAMPLES.replace("\\\n", "").splitlines():
        if line.startswith("gan-refine refine"):
            dry_run(*shlex.split(line)[2:])
    used = set(re.findall(r"--[a-z0-9-]+(?==)", EXAMPLES))
    assert used - {"--nproc-per-node"} <= FLAGS


def test_what_a_run_records_is_resolved_absolute_and_complete(tmp_path, monkeypatch):
    gan = assets.resolve("gan", "fashion16")
    monkeypatch.chdir(gan.parent)
    options = dry_run(f"--gan={gan.name}", "--outdir=runs")
    assert options["gan"] == str(gan) and options["gan_sha256"] == assets.sha256(gan)
    assert options["teacher"] == "fashion16", "names of the catalog stay"
    assert options["teacher_sha256"] == assets.catalog()["fashion16"].sha256["teacher"]
    assert options["outdir"] == str(gan.parent / "runs")
    assert options["objective"] == complete_spec("di-gan")
    assert set(options) == {field.name for field in fields(RunOptions)}
    assert set(options["refine"]) == {field.name for field in fields(RefineOptions)}


def test_a_run_that_measures_records_the_detector_and_the_reference():
    run = build(RunOptions(eval_images=10, teacher_steps=0))
    assert (run.options.metrics, run.options.detector, run.options.fid_ref) == ("fd", ("fashion16",), "auto")
    assert to_json(run.options).count("auto") == 2, "fid_ref, and the discriminator: the file's own or none"
    again = build(run.options)
    assert again.options == run.options, "resolving what is resolved changes nothing"


def test_w_is_whitened_by_default_where_the_objective_has_a_discriminator_to_learn_from(tmp_path):
    few = RunOptions(eval_images=10, teacher_steps=0)
    run = build(few)
    assert run.options.whiten_w == 0.1
    first, wanted = run.gan.generator, run.gan.generator.whitened(0.1)
    assert run.original is not None and moved(run.original, first) == 0, (
        "what is measured as the original is the original"
    )
    assert moved(run.generator, wanted) == 0 < moved(run.generator, first)
    run.gan.generator.write_original(tmp_path / "best.pkl")
    assert assets.sha256(tmp_path / "best.pkl") == assets.catalog()["fashion16"].sha256["gan"]
    for options in (replace(few, objective="diff-instruct"), replace(few, whiten_w=0.0)):
        run = build(options)
        assert run.options.whiten_w == 0 == moved(run.generator, run.gan.generator)
    net = StyleGan2Net(8, 0, 8, 16, 1, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
    write_gan(tmp_path / "alone.pkl", net, None, net)
    alone = replace(few, gan=str(tmp_path / "alone.pkl"))
    assert build(alone).options.whiten_w == 0, "its file has no discriminator"
    assert build(replace(alone, whiten_w=0.3)).options.whiten_w == 0.3


@torch.no_grad()
def moved(one: Generator, other: Generator) -> float:
    """How far their images are from each other, at most."""
    latents = other.draw(8, torch.Generator().manual_seed(0))
    return float((one.full_size()(latents) - other(latents)).abs().max())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            RunOptions(gan="one-step:fashion16", whiten_w=0.1),
            "--whiten-w is for StyleGAN2 generators, and this is one of",
        ),
        (RunOptions(bridge="resize", whiten_w=0.1), "--whiten-w is not for a bridged GAN"),
        (RunOptions(whiten_w=0.1, refine=RefineOptions(l2_images=1.0)), "to which --l2-images ties them"),
        (
            RunOptions(whiten_w=0.1, refine=RefineOptions(train="mapping,synthesis")),
            "--train=mapping,synthesis keeps them",
        ),
    ],
)
def test_what_cannot_be_whitened_is_refused_if_it_is_asked_for(given, message, tmp_path):
    if given.bridge != "none":
        net = StyleGan2Net(8, 0, 8, 32, 1, synthesis_kwargs={"channel_base": 64, "channel_max": 8})
        write_gan(tmp_path / "large.pkl", net, None, net)
        given = replace(given, gan=str(tmp_path / "large.pkl"))
    if given.gan != "one-step:fashion16":
        assert build(replace(given, whiten_w=None, metrics="none")).options.whiten_w == 0
    with pytest.raises(UserError, match=message):
        build(given)


def test_a_run_of_a_time_without_whitening_resumes_without(tmp_path):
    record = asdict(RunOptions())
    del record["whiten_w"]
    assert options_from_json(json.dumps(record), "options.json").whiten_w == 0
    (tmp_path / "options.json").write_text(json.dumps(record))
    assert read_config(str(tmp_path / "options.json"))["whiten_w"] == "0.0", "nor does a new run with its options"
    (tmp_path / "options.json").write_text('{"gan": "fashion16"}')
    assert "whiten_w" not in read_config(str(tmp_path / "options.json")), "a file by hand leaves the default"


@pytest.mark.parametrize("place", ["", "elsewhere"])
def test_the_command_that_resumes_calls_this_python(place, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", (place and str(tmp_path)) or str(Path(sys.executable).parent))
    program = resume_command(tmp_path, RunOptions()).split(" -m ")[0]
    assert program == (shlex.quote(sys.executable) if place else "python")


def test_options_of_a_file_are_taken_and_those_of_the_command_line_win(tmp_path):
    file = tmp_path / "options.json"
    first = dry_run("--glr=0.002", "--warmup-kimg=0.5", "--tick=1.5", "--no-report", "--labels=uniform", "--desc=x")
    file.write_text(json.dumps(first))
    assert dry_run(f"--config={file}") == first
    again = dry_run(f"--config={file}", "--glr=0.001", "--report", "--batch=32")
    refine = first["refine"] | {"glr": 0.001, "batch": 32, "batch_gpu": 32}
    assert again == first | {"report": True, "refine": refine}
    file.write_text('{"objective": "diff-instruct", "detector": ["pixels"]}')
    some = dry_run(f"--config={file}")
    assert parse_spec(some["objective"])[0] == "diff-instruct" and some["detector"] == ["pixels"]
    file.write_text('{"trust_pickle": true}')
    assert dry_run(f"--config={file}")["trust_pickle"] is False


def test_the_command_of_a_run_has_all_digits_and_only_options():
    refine = replace(RefineOptions(), total_images=123_456_789)
    line = command_line(RunOptions(fid_ref="data.npz", fid_ref_sha256="abc", refine=refine))
    assert "--kimg=123456.789" in line and "--fid-ref=data.npz" in line
    assert {word.partition("=")[0] for word in line.split()[2:]} <= FLAGS


def test_a_preset_gives_other_defaults_and_what_is_given_wins(tmp_path):
    options = dry_run("--preset=paper", "--batch=32")
    refine = options["refine"]
    assert parse_spec(options["objective"])[0] == "diff-instruct"
    assert (refine["batch"], refine["glr"], refine["warmup_images"], refine["lr_decay"]) == (32, 1e-5, 0, 0)
    file = tmp_path / "options.json"
    file.write_text('{"refine": {"glr": 0.002}}')
    for order in (["--preset=paper", f"--config={file}"], [f"--config={file}", "--preset=paper"]):
        assert dry_run(*order)["refine"]["glr"] == 0.002
    for name in PRESETS:
        dry_run(f"--preset={name}")


def test_without_a_preset_one_is_chosen_by_generator_and_device(pair, monkeypatch):
    assert dry_run(*pair)["preset"] == "demo"
    generator = load_generator(pair[0].removeprefix("--gan="))
    assert choose_preset(generator, "cpu")[0] == choose_preset(generator, "cuda:1")[0] == "demo"
    monkeypatch.setattr("gan_refine.run.build.LARGE", 10)
    assert choose_preset(generator, "cuda:1")[0] == "gan" and choose_preset(generator, "cpu")[0] == "demo"
    chosen = apply_preset(RunOptions(), "gan", {"total_images", "batch", "batch_gpu", "warmup_images"})
    expected = replace(RefineOptions(), total_images=10**6, batch=256, batch_gpu=256, warmup_images=10**5)
    assert chosen.refine == expected and chosen.preset == "gan"
    assert "--preset=gan" in command_line(chosen) and "--kimg" not in command_line(chosen)


def test_a_micro_batch_is_checked_against_the_batch_of_the_preset_that_is_chosen(pair, monkeypatch):
    assert dry_run(*pair, "--batch-gpu=32")["refine"]["batch"] == 32

    def refusal(*arguments: str) -> str:
        return str(
            CliRunner().invoke(refine, [*pair, *arguments, "--dry-run", "--metrics=none", "--device=cpu"]).exception
        )

    for arguments in (["--batch-gpu=128"], ["--preset=demo", "--batch-gpu=128"]):
        assert "--batch=32 is not a multiple of --batch-gpu=128" in refusal(*arguments)
    monkeypatch.setattr("gan_refine.run.build.choose_preset", lambda *_: ("gan", "the test says so"))
    chosen = dry_run(*pair, "--batch-gpu=128")["refine"]
    assert (chosen["batch"], chosen["batch_gpu"], chosen["warmup_images"]) == (256, 128, 10**5)
    assert "--batch=256 is not a multiple of --batch-gpu=96" in refusal("--batch-gpu=96")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", "holds no options"),
        ("{", "cannot be read as JSON"),
        (None, "cannot be read (No such file or directory); give the options.json of a run folder"),
        ('{"refine": 3}', "holds no options"),
        ('{"learning_rate": 1}', "has learning_rate, which is none of gan, which,"),
        ('{"refine": {"lr": 1, "glr": 1}}', "has lr, which is none of total_images, batch,"),
        ('{"refine": {"batch": 2.5}}', "'2.5' is not a valid integer"),
        ('{"refine": {"glr": "fast"}}', "'fast' is not a valid float"),
        ('{"refine": {"total_images": "many"}}', "got 'many' for total_images; write a whole number of images"),
        ('{"refine": {"seed": -1}}', "--seed=-1 is not allowed"),
        ('{"report": 5}', "'5' is not a valid boolean"),
        ('{"which": "D"}', "'D' is not one of"),
        ('{"gan": ["a"]}', "is not a file"),
    ],
)
def test_bad_files_of_options_are_refused_in_one_line(text, message, tmp_path, monkeypatch, capsys):
    if text is not None:
        (tmp_path / "options.json").write_text(text)
    arguments = ["refine", f"--config={tmp_path / 'options.json'}", "--device=cpu", "--dry-run"]
    monkeypatch.setattr("sys.argv", ["gan-refine", *arguments])
    assert run_command(cli) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "arguments, objective, glr",
    [
        ([], "di-gan", 3e-4),
        (["--objective=diff-instruct"], "diff-instruct", 1e-4),
        (["--objective=sid", "--glr=3e-5"], "sid", 3e-5),
        (["--gan=one-step:fashion16"], "di-gan", 1e-4),
    ],
)
def test_the_objective_and_the_generator_decide_the_defaults(arguments, objective, glr):
    options = dry_run(*arguments)
    assert parse_spec(options["objective"])[0] == objective
    assert options["refine"]["glr"] == glr


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_complete_spec_names_every_option_and_means_the_same(name):
    cls = OBJECTIVES[name].Options
    complete = complete_spec(name)
    assert set(parse_spec(complete)[1]) == {field.name for field in fields(cls)}
    assert build_options(cls, parse_spec(complete)[1], name) == cls()
    assert complete_spec(complete) == complete == write_spec(name, cls())


@dataclass
class Counted:
    """Options as a file may give them, with null for a number."""

    rate: float | None = None
    count: int | None = 3


def test_null_is_allowed_only_where_it_is_the_default():
    ranges = {"rate": Range(0, 1), "count": Range(1, 9)}
    require_ranges(Counted(), ranges)
    with pytest.raises(OptionError, match=r"^--count=None is not allowed; give a number from 1 to 9$"):
        require_ranges(Counted(count=None), ranges)
    with pytest.raises(OptionError, match=r"^--rate=2\.0 is not allowed"):
        require_ranges(Counted(rate=2.0), ranges)


def test_a_resumed_run_takes_only_what_it_may_and_auto_asks_for_nothing(tmp_path):
    saved = RunOptions(objective=complete_spec("sid"), detector=("fashion16",))
    given = RunOptions(objective="sid", snap=3, refine=replace(RefineOptions(), tick_images=5))
    merged = merge_options(saved, given, ["objective", "snap", "tick_images", "detector"])
    assert merged == replace(saved, snap=3, refine=replace(saved.refine, tick_images=5))
    with pytest.raises(OptionError, match="--seed=0 \\(got --seed=1\\)"):
        merge_options(saved, RunOptions(refine=replace(RefineOptions(), seed=1)), ["seed"])
    with pytest.raises(OptionError, match="--objective=sid,"):
        merge_options(saved, RunOptions(objective="sid,alpha=1.0"), ["objective"])
    assert options_from_json(to_json(saved), "options.json") == saved


def test_paths_become_absolute_wherever_an_option_can_name_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.pkl").touch()
    here = str(tmp_path / "net.pkl")
    assert absolute("net.pkl") == here
    assert absolute("one-step:net.pkl,sigma=3.0") == f"one-step:{here},sigma=3.0"
    assert absolute("inception,path=net.pkl,depth=64") == f"inception,path={here},depth=64"
    for text in ("auto", "fashion16", "teacher,steps=18", "https://example.org/net.pkl"):
        assert absolute(text) == text
    for name in ("fashion16", "teacher", "auto", "inception", "efficientnet-lite0"):
        (tmp_path / name).mkdir()
        assert absolute(name) == name, "a name wins over a folder, as where it is opened"
    assert absolute("teacher,steps=18") == "teacher,steps=18"
    assert absolute("inception,path=net.pkl") == f"inception,path={here}"


@pytest.mark.parametrize("gan", ["gan.pkl", "one-step:teacher.pkl"])
def test_a_run_parses_and_hashes_each_network_file_once(gan, tmp_path, monkeypatch):
    write_pair(tmp_path)
    parsed, hashed = [], []
    read_bytes, digest = reader.read_bytes, download._sha256.__wrapped__
    monkeypatch.setattr(reader, "read_bytes", lambda path, *rest: parsed.append(path.name) or read_bytes(path, *rest))
    counted = functools.lru_cache(lambda path, version: hashed.append(path.name) or digest(path, version))
    monkeypatch.setattr(download, "_sha256", counted)
    monkeypatch.chdir(tmp_path)
    short = ["--metrics=fd", "--detector=fashion16", "--eval-images=8", "--fid-seeds=1", "--kimg=0.016", "--batch=8"]
    # The report opens both pickles again.
    short += ["--no-report", "--objective=di-gan,imagenet=0,samples=64,steps=2,window=8"]
    short += ["--warmup-kimg=0.008", "--teacher-steps=2", "--device=cpu", "--outdir=runs"]
    result = CliRunner().invoke(refine, [f"--gan={gan}", "--teacher=teacher.pkl", *short], catch_exceptions=False)
    assert result.exit_code == 0
    inputs = {"gan.pkl", "teacher.pkl"} if gan == "gan.pkl" else {"teacher.pkl"}
    assert sorted(name for name in parsed if name in inputs) == sorted(inputs)
    assert sorted(name for name in hashed if name in inputs) == sorted(inputs)


@pytest.mark.parametrize(
    "saved, expected",
    [
        ("di-gan,pixels=0.5", "di-gan,pixels=0.5,imagenet=0,relativistic=false"),  # begun before there were such losses
        ("di-gan,pixels=0.5,imagenet=2.0", "di-gan,pixels=0.5,imagenet=2.0,relativistic=false"),
        ("di-gan,imagenet=2.0,relativistic=True", "di-gan,imagenet=2.0,relativistic=True"),
        ("diff-instruct,joint=False", "diff-instruct,joint=False"),
    ],
)
def test_a_run_goes_on_with_the_losses_that_it_had(saved, expected):
    assert options_from_json(to_json(RunOptions(objective=saved)), "options.json").objective == expected
