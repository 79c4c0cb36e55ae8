"""A VGG19 weights file -> the tensors of its first 13 convolutions, checked. Nothing is ever downloaded.

Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, table 1, column E.
"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch

from losses.errors import LossError

# Positions of conv1_1 ... conv5_1 in torchvision's `features`.
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
TORCHVISION_FILE = "vgg19-dcbb9e9d.pth"
TORCHVISION_SHA256_PREFIX = "dcbb9e9d"
REMEDY = (
    "run `python -c \"import torchvision; torchvision.models.vgg19(weights='IMAGENET1K_V1')\"` where there is internet "
    "(a login node; TORCH_HOME moves the cache), or name the file with --vgg_weights, or do without by --lambda_vgg 0 "
    "(and --lambda_side 0: the side term uses VGG19 too)"
)


@dataclass(frozen=True)
class VGGWeights:
    """tensors: `features.N.weight` and `features.N.bias` float32 for N in CONVOLUTIONS; where they came from."""

    tensors: dict[str, torch.Tensor]
    path: Path
    sha256: str

    def describe(self) -> str:
        """One line for the log."""
        widest = max(self.tensors[f"features.{index}.weight"].shape[0] for index in CONVOLUTIONS)
        origin = "torchvision's" if self.sha256.startswith(TORCHVISION_SHA256_PREFIX) else "not torchvision's file"
        return f"VGG19 weights: {self.path} (sha256 {self.sha256[:8]}, {origin}, up to {widest} channels)"


def read_vgg_weights(path: str | None) -> VGGWeights:
    """Read `path`, or without one torchvision's file in torch's hub cache.

    A file under torchvision's name must have its sha256 prefix, so that a torn copy is not trusted. Narrower networks
    of the same structure are taken. Raises LossError naming the file, what is wrong with it and what to do.
    """
    file = Path(path) if path else Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_FILE
    if not file.is_file():
        what = f"--vgg_weights {path}: no such file" if path else f"the VGG term needs {file}, which does not exist"
        raise LossError(f"{what}; {REMEDY}")
    digest = _sha256(file)
    if file.name == TORCHVISION_FILE and not digest.startswith(TORCHVISION_SHA256_PREFIX):
        raise LossError(
            f"{file} is damaged: its sha256 starts with {digest[:8]}, not {TORCHVISION_SHA256_PREFIX}; {REMEDY}"
        )
    return VGGWeights(_convolutions(_load(file), file), file, digest)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _load(file: Path) -> dict:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise LossError(f"{file} is not a file of weights that torch can read; {REMEDY}") from error
    if not isinstance(content, dict):
        raise LossError(f"{file} holds a {type(content).__name__}, not VGG19 weights by name; {REMEDY}")
    return content


def _convolutions(content: dict, file: Path) -> dict[str, torch.Tensor]:
    faults, tensors, channels = [], {}, 3
    for index in CONVOLUTIONS:
        weight, bias = (content.get(f"features.{index}.{kind}") for kind in ("weight", "bias"))
        if not (isinstance(weight, torch.Tensor) and isinstance(bias, torch.Tensor)):
            faults.append(f"features.{index}.weight or .bias is missing")
            break
        if weight.ndim != 4 or weight.shape[1:] != (channels, 3, 3) or bias.shape != weight.shape[:1]:
            wanted = f"(n, {channels}, 3, 3) and (n,) are needed"
            faults.append(f"features.{index} has shapes {tuple(weight.shape)} and {tuple(bias.shape)}; {wanted}")
            break
        if not (weight.isfinite().all() and bias.isfinite().all()):
            faults.append(f"features.{index} holds numbers that are not finite")
        tensors[f"features.{index}.weight"], tensors[f"features.{index}.bias"] = weight.float(), bias.float()
        channels = weight.shape[0]
    if faults:
        raise LossError(f"{file} does not hold VGG19: {'; '.join(faults)}; {REMEDY}")
    return tensors
