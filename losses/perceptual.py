"""Perceptual term: L1 between VGG19 features at relu1_1 ... relu5_1.

Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016; layers and
weights as in pix2pixHD (Wang et al., CVPR 2018), with the ImageNet normalisation that DarkIR's published code lacks.
"""

from __future__ import annotations

import torch
from torch import nn

from losses.errors import LossError
from losses.vgg_weights import CONVOLUTIONS, VGGWeights

# Convolution whose ReLU is compared -> its weight. A max pooling stands before each of them but the first.
LAYER_WEIGHTS = {0: 1 / 32, 5: 1 / 16, 10: 1 / 8, 19: 1 / 4, 28: 1.0}
SMALLEST_SIDE = 16  # four poolings
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """The frozen first 13 convolutions of VGG19 and the weighted L1 of their features; `weights` from read_vgg_weights.

    Restored is not clamped: VGG sees values outside [0, 1] as they are, so that their gradient leads back.
    Normalisation and sums run in float32. The convolutions follow a bfloat16 autocast of the caller and ignore a
    float16 one, because the features of an unclamped image may pass float16's range.
    """

    def __init__(self, weights: VGGWeights):
        super().__init__()
        self.stages = _stages(weights)
        # Not folded into the first convolution: its zero padding stands for a pixel of the mean colour.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.eval()

    def forward(self, restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> float32 scalar; the target's features carry no gradient.

        Raises LossError when a side is under 16.
        """
        height, width = target.shape[-2:]
        if min(height, width) < SMALLEST_SIDE:
            raise LossError(
                f"--lambda_vgg: the images are {width} x {height}, and VGG19 needs sides of at least {SMALLEST_SIDE}; "
                f"use --resolution {SMALLEST_SIDE} or more, or set --lambda_vgg 0"
            )
        kind = restored.device.type
        follow = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=follow):
            return self._distance(self._normalised(restored), self._normalised(target))

    def _distance(self, ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """Stage by stage, so that a feature map of the target lives only until it was compared."""
        total = torch.zeros((), device=ours.device)
        for weight, stage in zip(LAYER_WEIGHTS.values(), self.stages, strict=True):
            ours = stage(ours)
            with torch.no_grad():
                theirs = stage(theirs)
            # Summed in float32 without a float32 copy of 16-bit features.
            total = total + weight * (ours - theirs).abs().mean(dtype=torch.float32)
        return total

    def _normalised(self, image: torch.Tensor) -> torch.Tensor:
        return (image.float() - self.mean) / self.std


def _stages(weights: VGGWeights) -> nn.ModuleList:
    """VGG19's features in five parts, each ending with a compared ReLU; channels_last, which convolutions prefer."""
    stages, layers = nn.ModuleList(), []
    for index in CONVOLUTIONS:
        if index in LAYER_WEIGHTS and index > 0:
            layers.append(nn.MaxPool2d(2))
        layers += [_frozen(weights, index), nn.ReLU(inplace=True)]
        if index in LAYER_WEIGHTS:
            stages.append(nn.Sequential(*layers))
            layers = []
    return stages.to(memory_format=torch.channels_last)


def _frozen(weights: VGGWeights, index: int) -> nn.Conv2d:
    weight, bias = (weights.tensors[f"features.{index}.{kind}"] for kind in ("weight", "bias"))
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
    convolution.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return convolution.requires_grad_(False)
