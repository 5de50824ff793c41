"""The command line of a run, from its resolved options."""

import shlex

from gan_refine.run.options import RunOptions

KIMG = {
    "kimg": "total_images",
    "warmup_kimg": "warmup_images",
    "pool_kimg": "pool_images",
    "ema_kimg": "ema_halflife_images",
    "tick": "tick_images",
}  # options in thousands of images -> fields of RefineOptions
FLAGS = ("recompute", "trust_pickle", "report", "tensorboard", "wandb")
NOT_GIVEN = ("refine", "gan_sha256", "teacher_sha256")  # fields that are no options
ALWAYS = ("gan", "teacher", "objective", "pool_images", "glr")  # whose defaults depend on other options


def command_line(options: RunOptions) -> str:
    """The command that starts this run again: every option that differs from its default."""
    default = RunOptions()
    values = {name: value for name, value in vars(options).items() if name not in NOT_GIVEN} | vars(options.refine)
    defaults = vars(default) | vars(default.refine)
    changed = {name: value for name, value in values.items() if name in ALWAYS or value != defaults[name]}
    if options.refine.batch_gpu == options.refine.batch:
        changed.pop("batch_gpu", None)  # the default is the whole batch
    return " ".join(["gan-refine refine", *(_argument(name, value) for name, value in changed.items())])


def evaluate_line(options: RunOptions, refined: str) -> str:
    """The command that measures original and refined pickle on the same latents, which selected neither."""
    words = ["gan-refine evaluate", f"--gan={shlex.quote(options.gan)}", f"--gan={shlex.quote(refined)}"]
    if options.teacher_steps:
        words.append(_argument("teacher", options.teacher))
    words += [_argument(name, getattr(options, name)) for name in ("metrics", "detector", "fid_ref", "teacher_steps")]
    first = options.refine.seed + 1 + options.fid_seeds  # after those that selected and those of the summary
    return " ".join([*words, f"--images={options.eval_images}", f"--seed={first}"])


def _argument(field: str, value: object) -> str:
    in_kimg = {images: option for option, images in KIMG.items()}
    name = in_kimg.get(field, field).replace("_", "-")
    if field in FLAGS:
        return f"--{name}" if value else f"--no-{name}"
    if isinstance(value, tuple):
        return " ".join(f"--{name}={shlex.quote(each)}" for each in value)
    text = f"{value / 1000:g}" if field in in_kimg and isinstance(value, int) else str(value)
    return f"--{name}={shlex.quote(text)}"
