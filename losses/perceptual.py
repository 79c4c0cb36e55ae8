"""Perceptual term: L1 between VGG19 features at relu1_1 ... relu5_1, from a weights file that is never downloaded.

Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016; layers and
weights as in pix2pixHD (Wang et al., CVPR 2018), with the ImageNet normalisation that DarkIR's published code lacks.
VGG19: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015, table 1, column E.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from common.errors import InputError
from common.files import file_digest

# Positions of conv1_1 ... conv5_1 in torchvision's `features`.
CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28)
# Convolution whose ReLU is compared -> its weight. A max pooling stands before each of them but the first.
LAYER_WEIGHTS = {0: 1 / 32, 5: 1 / 16, 10: 1 / 8, 19: 1 / 4, 28: 1.0}
SMALLEST_SIDE = 16  # four poolings
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TORCHVISION_FILE, TORCHVISION_SHA256_PREFIX = "vgg19-dcbb9e9d.pth", "dcbb9e9d"
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


def vgg_file(path: str | None) -> Path:
    """`path`, or without one where torchvision's file lies in torch's hub cache."""
    return Path(path) if path else Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION_FILE


def read_vgg_weights(path: str | None) -> VGGWeights:
    """Read `path`, or without one torchvision's file in torch's hub cache.

    A file under torchvision's name must have its sha256 prefix, so that a torn copy is not trusted. Narrower networks
    of the same structure are taken. Raises InputError naming the file, what is wrong with it and what to do.
    """
    file = vgg_file(path)
    if not file.is_file():
        what = f"--vgg_weights {path}: no such file" if path else f"the VGG term needs {file}, which does not exist"
        raise InputError(f"{what}; {REMEDY}")
    digest = file_digest(file)
    if file.name == TORCHVISION_FILE and not digest.startswith(TORCHVISION_SHA256_PREFIX):
        raise InputError(
            f"{file} is damaged: its sha256 starts with {digest[:8]}, not {TORCHVISION_SHA256_PREFIX}; {REMEDY}"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise InputError(f"{file} is not a file of weights that torch can read; {REMEDY}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file} holds a {type(content).__name__}, not VGG19 weights by name; {REMEDY}")
    return VGGWeights(_convolutions(content, file), file, digest)


def _convolutions(content: dict, file: Path) -> dict[str, torch.Tensor]:
    """The tensors of VGG19's convolutions in `content`, checked."""
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
        raise InputError(f"{file} does not hold VGG19: {'; '.join(faults)}; {REMEDY}")
    return tensors


class PerceptualLoss(nn.Module):
    """The frozen first 13 convolutions of VGG19 and the weighted L1 of their features; `weights` from read_vgg_weights.

    Restored is not clamped: VGG sees values outside [0, 1] as they are, so that their gradient leads back.
    Normalisation and sums run in float32. The convolutions follow a bfloat16 autocast of the caller and ignore a
    float16 one, because the features of an unclamped image may pass float16's range.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, weights: VGGWeights):
        super().__init__()
        self.stages = _stages(weights)
        # Not folded into the first convolution: its zero padding stands for a pixel of the mean colour.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.eval()

    def forward(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> float32 scalar; the target's features carry no gradient.

        Raises InputError when a side is under 16.
        """
        height, width = target.shape[-2:]
        if min(height, width) < SMALLEST_SIDE:
            raise InputError(
                f"--lambda_vgg: the images are {width} x {height}, and VGG19 needs sides of at least {SMALLEST_SIDE}; "
                f"use --resolution {SMALLEST_SIDE} or more, or set --lambda_vgg 0"
            )
        kind = restored.device.type
        follow = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=follow):
            ours, theirs = ((image.float() - self.mean) / self.std for image in (restored, target))
            total = torch.zeros((), device=ours.device)
            # Stage by stage, so that a feature map of the target lives only until it was compared.
            for weight, stage in zip(LAYER_WEIGHTS.values(), self.stages, strict=True):
                ours = stage(ours)
                with torch.no_grad():
                    theirs = stage(theirs)
                # Summed in float32 without a float32 copy of 16-bit features.
                total = total + weight * (ours - theirs).abs().mean(dtype=torch.float32)
            return total


def _stages(weights: VGGWeights) -> nn.ModuleList:
    """VGG19's features in five parts, each ending with a compared ReLU; channels_last, which convolutions prefer."""
    stages, layers = nn.ModuleList(), list[nn.Module]()
    for index in CONVOLUTIONS:
        if index in LAYER_WEIGHTS and index > 0:
            layers.append(nn.MaxPool2d(2))
        weight, bias = (weights.tensors[f"features.{index}.{kind}"] for kind in ("weight", "bias"))
        convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
        convolution.load_state_dict({"weight": weight, "bias": bias}, assign=True)
        layers += [convolution.requires_grad_(False), nn.ReLU(inplace=True)]
        if index in LAYER_WEIGHTS:
            stages.append(nn.Sequential(*layers))
            layers = []
    return stages.to(memory_format=torch.channels_last)
