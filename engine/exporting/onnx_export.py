"""A network -> ONNX bytes for images of any size, proved against PyTorch in onnxruntime.

Custom operators and complex tensors have no ONNX counterpart. So the Fourier transforms are written as products with matrices
of cosines and sines: right for every size, with operators that every runtime has, in time that grows with H W (H + W). ONNX's own
DFT gives the same numbers, but onnxruntime computes it slowly.
"""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path

import torch
from torch import nn

from common.errors import InputError, RunFailed
from common.files import atomic_output
from darkir.blocks import Block, EBlock, FreMLP
from darkir.ensemble import Ensemble
from darkir.weights import Network

OPSET = 18
SMALLEST, LARGEST = 16, 16384  # sides of an image that the file declares; compared with PyTorch at PROVED_SIZES
TRACED_SIZE = (2, 3, 37, 51)
PROVED_SIZES = ((1, 3, 37, 51), (2, 3, 64, 96), (1, 3, 127, 93), (3, 3, 41, 40))
TOLERANCE = 1e-4  # of values in [0, 1]
PACKAGES = "onnx, onnxscript and onnxruntime"
# Older exporters take no network whose sizes stay open: 2.6 ends with "inconsistent min and max" of a size.
OLDEST_TORCH = "2.11"


def exporter_is_old() -> bool:
    """Whether this torch is too old for `write_onnx`."""
    return torch.__version__ < OLDEST_TORCH  # torch compares it as a version, not as text


def refuse_without_packages() -> None:
    """InputError unless what --onnx needs is installed."""
    if exporter_is_old():
        raise InputError(
            f"--onnx needs torch {OLDEST_TORCH} or newer, and this is {torch.__version__}: run the same export "
            "in an environment with a newer torch (no GPU is needed), or leave --onnx out"
        )
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--onnx needs the packages {PACKAGES} ({error}); install them, or leave --onnx out"
        ) from error


def write_onnx(network: Network | Ensemble, path: Path) -> float:
    """Write `network` (float32, on the CPU) to `path`: input "src", output "restored", (B, 3, H, W), of one network not clamped.

    Returns the largest difference to PyTorch over noise of PROVED_SIZES and flat images; RunFailed, with nothing written, when
    it is above TOLERANCE.
    """
    exportable = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for block in exportable.modules():
        if isinstance(block, Block):
            block.folds = False
        if isinstance(block, EBlock):
            block.add_module("freq", ExportableFreMLP(block.freq))
    sides = {name: torch.export.Dim(name, min=SMALLEST, max=LARGEST) for name in ("height", "width")}
    shapes = ({0: torch.export.Dim("batch"), 2: sides["height"], 3: sides["width"]},)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's exporter about itself
        program = torch.onnx.export(
            exportable,
            (torch.rand(TRACED_SIZE),),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=["src"],
            output_names=["restored"],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # with dynamo=True
    with atomic_output(path) as temporary:
        program.save(temporary, external_data=False)
        difference = _difference(network, temporary)
        if not difference <= TOLERANCE:
            raise RunFailed(f"--onnx: onnxruntime differs by {difference:.1e} from PyTorch; nothing is written")
    return difference


@torch.no_grad()
def _difference(network: Network | Ensemble, path: Path) -> float:
    """The largest absolute difference of onnxruntime's output to the network's."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(size, generator=random) for size in PROVED_SIZES]
    images += [torch.full(PROVED_SIZES[0], value) for value in (0.0, 0.5)]  # a flat image has hardly any spectrum
    outputs = [torch.from_numpy(session.run(None, {"src": image.numpy()})[0]) for image in images]
    pairs = zip(images, outputs, strict=True)
    return max((network(image) - output).abs().max().item() for image, output in pairs)


class ExportableFreMLP(nn.Module):
    """FreMLP by `_spectrum` and `_synthesis`, on the same parameters."""

    def __init__(self, freq: FreMLP):
        super().__init__()
        self.process1 = freq.process1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        magnitude, phasor = _spectrum(x)
        return _synthesis(self.process1(magnitude), phasor, x.shape[-1])


def _waves(rows: int, columns: int, period: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, columns) cosines and sines of 2 pi row column / period."""
    # The remainder keeps the angle exact; the period is a tensor because the exporter takes no remainder by a size.
    turns = (torch.arange(rows)[:, None] * torch.arange(columns)) % _as_tensor(period)
    angle = turns.float() * (2 * math.pi) / _as_tensor(period).float()
    return angle.cos(), angle.sin()


def _as_tensor(size: int) -> torch.Tensor:
    return torch.arange(size)[-1:] + 1


def _spectrum(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """darkir/spectral.py's `spectrum`: along the width for the non-negative frequencies, then along the height."""
    height, width = x.shape[-2:]
    cosines, sines = _waves(width, width // 2 + 1, width)
    real, imaginary = x @ cosines, -(x @ sines)
    cosines, sines = _waves(height, height, height)
    real, imaginary = cosines @ real + sines @ imaginary, cosines @ imaginary - sines @ real
    magnitude = (real.square() + imaginary.square()).sqrt()
    vanished = magnitude == 0
    divisor = torch.where(vanished, 1.0, magnitude)
    return magnitude, torch.stack((torch.where(vanished, 1.0, real / divisor), imaginary / divisor), dim=-1)


def _synthesis(magnitude: torch.Tensor, phasor: torch.Tensor, width: int) -> torch.Tensor:
    """darkir/spectral.py's `synthesis`; an inner column stands for two of the full spectrum."""
    height, bins = magnitude.shape[-2], width // 2 + 1
    real, imaginary = magnitude * phasor[..., 0], magnitude * phasor[..., 1]
    cosines, sines = _waves(height, height, height)
    real, imaginary = cosines @ real - sines @ imaginary, cosines @ imaginary + sines @ real
    column = torch.arange(bins)[:, None]
    share = torch.where((column == 0) | (2 * column == _as_tensor(width)), 1.0, 2.0)
    share = share / (_as_tensor(height) * _as_tensor(width)).float()
    cosines, sines = _waves(bins, width, width)
    return real @ (share * cosines) - imaginary @ (share * sines)
