"""What the commands share: grouped help, options that several of them have, and their checks."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from gan_refine.config import DEFAULT_STEPS, UNIFORM, shortened
from gan_refine.errors import FileFormatError, OptionError, first_line

F = TypeVar("F", bound=Callable[..., object])
SETTINGS = {"show_default": True, "max_content_width": 120}
GAN = "Generator: StyleGAN2 pickle or state dict, embedded or public name, or one-step:TEACHER,sigma=2.5."
TEACHER = "Diffusion teacher: EDM pickle or state dict, or embedded or public name."


class PathText(click.ParamType):
    """A path, or a name, URL or spec in whose place a path may stand. `~` at the start of a path becomes the home folder."""

    name = "path"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        longest = max(map(len, os.fsencode(text).split(b"/")))
        if not text.strip() or "\0" in text or longest > LONGEST_PART or len(text) > LONGEST_PATH:
            given = "empty" if not text.strip() else f"{shortened(text)!r}, which no file can be called"
            self.fail(f"it is {given}; give a path or what --help lists", param, ctx)
        return expanded(text)


PATH = PathText()
LONGEST_PART, LONGEST_PATH = 255, 4095  # bytes of a file's name and of a path, on usual systems


def expanded(text: str) -> str:
    """The text with `~` at the start of a path as the home folder: alone, after `one-step:` and in `path=`."""
    prefix, colon, rest = text.partition(":")
    if colon and prefix == "one-step":
        return f"{prefix}:{expanded(rest)}"
    head, *options = text.split(",path=")
    return ",path=".join(os.path.expanduser(part) for part in (head, *options))


class LabelsText(click.ParamType):
    """Class frequencies, or the path of a .json file with them."""

    name = "frequencies"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        return PATH.convert(text, param, ctx) if text.lower().endswith(".json") else text


LABELS = LabelsText()


class GroupedOption(click.Option):
    """An option that `GroupedCommand` lists under the heading `group`."""

    def __init__(self, *args, group: str, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose --help lists its options in groups, in the order in which they are declared."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Other"), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {line}\n" for line in self.epilog.splitlines()))


def option(group: str, *names: str, metavar: str | None = None, help: str, **kwargs) -> Callable[[F], F]:
    """click.option in a group of the help."""
    return click.option(*names, cls=GroupedOption, group=group, metavar=metavar, help=help, **kwargs)


def detector_option(group: str) -> Callable[[F], F]:
    """--detector, in whose features the metrics are computed; it may be repeated."""
    text = (
        "Features of the metrics; repeatable. auto (the embedded one that fits, teacher and pixels), teacher, pixels, an "
        "embedded name, inception[,path=FILE], efficientnet-lite0[,size=64], torchscript,path=FILE."
    )
    return option(group, "--detector", metavar="SPEC", type=PATH, multiple=True, default=("auto",), help=text)


def teacher_steps_option(group: str) -> Callable[[F], F]:
    """--teacher-steps, how the samples are made that generators are compared with."""
    text = "Calls of the teacher for each of its samples, which the metrics compare with; at least 2, 0 = no samples, data only."
    return option(group, "--teacher-steps", metavar="INT", type=int, default=DEFAULT_STEPS, help=text)


def fid_ref_option(group: str) -> Callable[[F], F]:
    """--fid-ref, the data that the metrics compare with too."""
    text = (
        "Data to compare with too: auto (the reference of an embedded detector), an .npz file by path, URL or public name, or a "
        "folder or a zip of images."
    )
    return option(group, "--fid-ref", metavar="SPEC", type=PATH, default="auto", help=text)


def labels_option(group: str) -> Callable[[F], F]:
    """--labels, the class frequencies."""
    text = "Class frequencies of a conditional generator: uniform, numbers such as 0.1,0.2,... or a .json file with a list."
    return option(group, "--labels", metavar="FREQUENCIES", type=LABELS, default=UNIFORM, help=text)


def noise_mode_option(group: str, default: str = "random") -> Callable[[F], F]:
    """--noise-mode, the noise inputs of a StyleGAN2."""
    text = "Noise inputs of a StyleGAN2: drawn for each image, or the constant buffers of its file."
    return option(group, "--noise-mode", type=click.Choice(["random", "const"]), default=default, help=text)


def device_option(group: str) -> Callable[[F], F]:
    """--device, by default a GPU if there is one."""
    text = "cpu, cuda, cuda:1, ...  [default: cuda if available, else cpu]"
    return option(group, "--device", metavar="DEVICE", default=default_device, show_default=False, help=text)


def trust_pickle_option(group: str) -> Callable[[F], F]:
    """--trust-pickle, which lets files run their code."""
    text = (
        "RUN the code inside pickles given by path or https URL. Only for files of networks that are not known here, "
        "from people you would let use your account."
    )
    return option(group, "--trust-pickle", is_flag=True, help=text)


def default_device() -> str:
    """The device that a command uses unless it is told."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(name: str) -> None:
    """Raises OptionError for a device that torch does not know or cannot use."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(
            f"--device={shortened(name)} cannot be used here; give cpu, or cuda on a machine with a GPU"
        ) from error


def spell_out(labels: str) -> str:
    """--labels with the numbers of its .json file, so that a run does not depend on the file later. Raises FileFormatError."""
    if not labels.lower().endswith(".json"):
        return labels
    try:
        numbers = json.loads(Path(labels).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"--labels={labels} cannot be read as JSON ({first_line(error)})") from error
    if not isinstance(numbers, list) or not numbers or any(type(number) not in (int, float) for number in numbers):
        raise FileFormatError(f"--labels={labels} holds no list of numbers; write [0.1, 0.2, ...], one for each class")
    return ",".join(repr(number) for number in numbers)
