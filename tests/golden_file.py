"""Reads tests/golden/*.npz, the numbers of the published implementations, and compares with them."""

import json
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden"


def names(prefix: str) -> list[str]:
    """The golden files whose names start with `prefix`, without suffix. There must be some."""
    found = sorted(path.stem for path in FOLDER.glob(f"{prefix}*.npz"))
    assert found, f"no golden file {prefix}*.npz in {FOLDER}"
    return found


class Golden:
    """One file: `meta` is what the reference was called with, `golden["in/x"]` a tensor, `part("in")` all of a kind."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
            self.meta = json.loads(str(arrays["meta"]))
            self.tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "meta"}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def get(self, key: str) -> torch.Tensor | None:
        return self.tensors.get(key)

    def part(self, kind: str) -> dict[str, torch.Tensor]:
        prefix = f"{kind}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}

    def load_weights(self, net: torch.nn.Module) -> None:
        """Gives `net` the reference's weights; names and shapes must agree, and parameters be parameters there too."""
        params, buffers = self.part("param"), self.part("buffer")
        assert {name for name, _ in net.named_parameters()} == set(params)
        assert {name for name, _ in net.named_buffers()} == set(buffers)
        net.load_state_dict({**params, **buffers}, strict=True)


def relative_error(got: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest absolute difference over largest absolute value of the reference."""
    assert got.shape == reference.shape, f"got {list(got.shape)}, the reference is {list(reference.shape)}"
    scale = reference.abs().max().item()
    return (got.detach() - reference).abs().max().item() / (scale or 1.0)


def assert_close(got: torch.Tensor, reference: torch.Tensor, rtol: float, what: str = "") -> None:
    error = relative_error(got, reference)
    assert error <= rtol, f"{what}: relative error {error:.2e} is over {rtol:.0e}"
