"""The command line of a run from its options, and the options of a command line from a file."""

import json
import shlex
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path

from gan_refine.config import RefineOptions, parse_spec
from gan_refine.errors import FileFormatError, OptionError, first_line
from gan_refine.run.options import KIMG, RunOptions, argument, with_former_defaults
from gan_refine.run.presets import PRESETS

NOT_GIVEN = ("refine", "gan_sha256", "teacher_sha256", "fid_ref_sha256")  # fields that are no options
ALWAYS = ("gan", "teacher", "objective", "glr", "whiten_w")  # whose defaults depend on other options


def command_line(options: RunOptions, left_out: Collection[str] = ()) -> str:
    """The command that starts this run again: every option that differs from its preset's, but not the fields `left_out`."""
    default = RunOptions()
    values = {name: value for name, value in vars(options).items() if name not in NOT_GIVEN} | vars(options.refine)
    defaults = vars(default) | vars(default.refine) | PRESETS.get(options.preset, {})
    changed = {name: value for name, value in values.items() if name in ALWAYS or value != defaults[name]}
    changed = {name: value for name, value in changed.items() if value is not None}  # which is left to the objective
    for name in left_out:
        changed.pop(name, None)
    if options.refine.batch_gpu == options.refine.batch:
        changed.pop("batch_gpu", None)  # the default is the whole batch
    return " ".join(["gan-refine refine", *(argument(name, value) for name, value in changed.items())])


def evaluate_line(options: RunOptions, refined: str) -> str:
    """The command that measures original and refined pickle on the same latents, which selected neither."""
    words = ["gan-refine evaluate", f"--gan={shlex.quote(options.gan)}", f"--gan={shlex.quote(refined)}"]
    bridging, bridge_given = parse_spec(options.bridge)
    full_size = bridge_given.get("measure") == "full"
    if options.teacher_steps and not full_size:
        words.append(argument("teacher", options.teacher))
    if bridging != "none" and not full_size:
        words.append(argument("bridge", options.bridge))
    words += [argument(name, getattr(options, name)) for name in ("metrics", "detector", "fid_ref", "teacher_steps")]
    first = options.refine.seed + 1 + options.fid_seeds  # after those that selected and those of the summary
    return " ".join([*words, f"--images={options.eval_images}", f"--seed={first}"])


def read_config(path: str) -> dict[str, str | list[str]]:
    """Texts for the options of `refine` from a file in the form of options.json, in which any field may be missing.

    It gives no consent to --trust-pickle. Raises UserError.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise FileFormatError(
            f"--config={path} cannot be read ({error.strerror}); give the options.json of a run folder, or a file like it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"--config={path} cannot be read as JSON ({first_line(error)})") from error
    of_a_run = isinstance(record, dict) and "gan_sha256" in record  # the digest is not written by hand
    if of_a_run and isinstance(record.get("objective"), str):
        record = with_former_defaults(record)
    inner = record.get("refine", {}) if isinstance(record, dict) else None
    if not isinstance(inner, dict):
        raise FileFormatError(
            f"--config={path} holds no options; give the options.json of a run folder, or a file like it"
        )
    for given, cls in ((record, RunOptions), (inner, RefineOptions)):
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise OptionError(f"--config={path} has {', '.join(unknown)}, which is none of {', '.join(known)}")
    left_out = {*NOT_GIVEN, "trust_pickle"}
    if inner.get("batch_gpu") == inner.get("batch"):
        left_out.add("batch_gpu")  # the default is the whole batch
    chosen = {name: value for name, value in {**record, **inner}.items() if name not in left_out and value is not None}
    return dict(_option(path, name, value) for name, value in chosen.items())


def _option(path: str, field: str, value: object) -> tuple[str, str | list[str]]:
    """The option of a field of the file, and its value as text. Raises OptionError."""
    if field in KIMG.values() and type(value) is not int:
        raise OptionError(f"--config={path}: got {value!r} for {field}; write a whole number of images")
    return option_of(field, value)


def option_of(field: str, value: object) -> tuple[str, str | list[str]]:
    """The option of a field, and its value as text."""
    in_kimg = {images: option for option, images in KIMG.items()}
    if field in in_kimg and isinstance(value, int):
        return in_kimg[field], repr(value / 1000)
    if isinstance(value, list) and field == "detector":
        return field, [str(each) for each in value]
    return field, value if isinstance(value, str) else json.dumps(value)
