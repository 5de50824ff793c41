"""A generator as ONNX: inputs z, labels (of a conditional one) and psi, output images; checked against onnxruntime."""

import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from gan_refine.errors import FileFormatError, MismatchError, UserError
from gan_refine.files import atomic_file
from gan_refine.generators.pretrained import PretrainedGenerator
from gan_refine.generators.stylegan2 import StyleGan2
from gan_refine.noise import rng_for

OPSET = 17
CHECKED = 5  # images, more than the two that are traced: the batch size must not be fixed in the graph
TOLERANCE = 1e-3  # of pixels in [-1, 1]; a byte is 8e-3
STREAM = 4001


class ConstantNoiseGenerator(nn.Module):
    """z [N, Z], labels [N, K] and psi [] -> images in [-1, 1] in float32, with the constant noise of the file."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.mapping, self.synthesis = net.get_submodule("mapping"), net.get_submodule("synthesis")

    def forward(self, z: Tensor, labels: Tensor, psi: Tensor) -> Tensor:
        w = self.mapping(z, labels)
        mean = self.mapping.get_buffer("w_avg")
        return self.synthesis(mean + psi * (w - mean), noise_mode="const", force_fp32=True).clamp(-1, 1)


def write_onnx(generator: PretrainedGenerator, path: Path) -> float:
    """Writes the file atomically; returns the largest difference of a pixel in [-1, 1] between onnxruntime and torch.

    Raises UserError without the extra `onnx`, MismatchError for other families, and FileFormatError if the two differ.
    """
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {' and '.join(missing)}; run: pip install -c constraints.txt -e '.[onnx]'")
    if not isinstance(generator, StyleGan2) or "mapping.w_avg" not in dict(generator.net.named_buffers()):
        raise MismatchError(
            f"ONNX is written of StyleGAN2 generators with w_avg, and this is of the family {generator.family}; export a .pkl"
        )
    module = ConstantNoiseGenerator(generator.net_with_mean_w().cpu()).eval()
    graph = _traced(module, _inputs(generator, 2))
    difference = _difference(graph, module, _inputs(generator, CHECKED))
    if not difference <= TOLERANCE:
        raise FileFormatError(f"{path} was not written: onnxruntime's images differ from torch's by {difference:.2g}")
    with atomic_file(path, FileFormatError) as stream:
        stream.write(graph)
    return difference


def _inputs(generator: PretrainedGenerator, n: int) -> tuple[Tensor, Tensor, Tensor]:
    latents = generator.draw(n, rng_for(0, 0, n, STREAM))
    return latents.z.cpu(), latents.labels.cpu(), torch.tensor(0.7)


def _traced(module: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> bytes:
    names = ["z", "labels", "psi"]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        path = Path(folder) / "generator.onnx"
        warnings.simplefilter("ignore")  # sizes that become constants, and the exporter's own deprecation
        torch.onnx.export(
            module,
            inputs,
            path,
            dynamo=False,  # the other exporter needs one more package
            opset_version=OPSET,
            input_names=names,
            output_names=["images"],
            dynamic_axes={name: {0: "n"} for name in ("z", "labels", "images")},
        )
        return path.read_bytes()


def _difference(graph: bytes, module: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    given = dict(zip(("z", "labels", "psi"), (tensor.numpy() for tensor in inputs), strict=True))
    taken = {each.name for each in session.get_inputs()}  # without labels if the generator is unconditional
    (images,) = session.run(None, {name: value for name, value in given.items() if name in taken})
    with torch.no_grad():
        return float((torch.from_numpy(images) - module(*inputs)).abs().max())
