"""What `gan-refine inspect` shows: what is in a network file, without running anything in it."""

import dataclasses
import json
from pathlib import Path

from gan_refine.pickles import Description, EmbeddedNetwork, describe

MAX_NAMES = 20  # in the text; JSON has them all


def description(file: Path, as_json: bool) -> str:
    """What is in the file, as text or as one JSON object."""
    found = describe(file)
    return json.dumps(dataclasses.asdict(found), indent=2) if as_json else report(found)


def report(found: Description) -> str:
    """The description as text."""
    verdict = "yes" if found.problem is None else f"NO: {found.problem}"
    lines = [
        f"{found.path}: {found.format}, {found.bytes:,} bytes",
        f"  SHA-256            {found.sha256}",
        f"  opens safely       {verdict}",
        f"  unknown names      {_names(found.unknown_names)}",
    ]
    if found.called_names:
        lines.append(f"  calls elsewhere    {_names(found.called_names)}: not here, and refined files leave them out")
    if found.incomplete:
        lines.append(f"  read only in part  {found.incomplete}")
    for network in found.networks:
        lines += ["", *_network(network)]
    if found.others:
        lines += ["", "other entries"]
        lines += [f"  {key:<18} {words}" for key, words in found.others.items()]
    if found.sources:
        lines += ["", "embedded sources (not run)"]
    for source in found.sources:
        owner = "as in this installation" if source.ours else "another than this installation has"
        lines.append(f"  {source.sha256}  {source.lines} lines, {owner}: {', '.join(source.classes)}")
    return "\n".join(lines)


def _network(network: EmbeddedNetwork) -> list[str]:
    taken = f" ({network.option})" if network.option else ""
    model = f" around {network.model}" if network.model else ""
    classes = f", {network.classes} classes" if network.classes else ""
    size = "unknown" if network.resolution is None else f"{network.resolution}x{network.resolution}"
    channels = "" if network.channels is None else f", {network.channels} channels"
    dtypes = ", ".join(f"{count:,} {name}" for name, count in network.dtypes.items()) or "none"
    lines = [
        f"{network.key}: {network.what}{taken}",
        f"  class              {network.class_name}{model}",
        f"  images             {size}{channels}{classes}",
        f"  numbers            {network.parameters:,} parameters, {network.buffers:,} in buffers",
        f"  dtypes             {dtypes}",
    ]
    if network.source_sha256:
        lines.append(f"  source             {network.source_sha256}")
    lines += [f"  {name:<18} {json.dumps(value)}" for name, value in network.arguments.items()]
    if network.problem:
        lines.append(f"  PROBLEM            {network.problem}")
    return lines


def _names(names: list[str]) -> str:
    rest = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + rest or "none"
