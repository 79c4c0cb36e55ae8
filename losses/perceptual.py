"""Perceptual term: L1 between VGG19 features at relu1_1 ... relu5_1.

Johnson, Alahi, Fei-Fei, "Perceptual Losses for Real-Time Style Transfer and Super-Resolution", ECCV 2016; layers and
weights as in pix2pixHD (Wang et al., CVPR 2018), with the ImageNet normalisation that DarkIR's published code lacks.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from losses.errors import LossError
from losses.vgg_weights import CONVOLUTIONS, VGGWeights

# Convolution whose ReLU is compared -> its weight. A max pooling stands before each of them but the first.
LAYER_WEIGHTS = {0: 1 / 32, 5: 1 / 16, 10: 1 / 8, 19: 1 / 4, 28: 1.0}
SMALLEST_SIDE = 16  # four poolings
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualLoss(nn.Module):
    """The frozen first 13 convolutions of VGG19 and the weighted L1 of their features; `weights` from read_vgg_weights.

    Restored is not clamped: VGG sees values outside [0, 1] as they are, so that their gradient leads back.
    Normalisation and comparison run in float32. The convolutions follow a bfloat16 autocast of the caller and ignore a
    float16 one, because the features of an unclamped image may pass float16's range.
    """

    def __init__(self, weights: VGGWeights):
        super().__init__()
        self.convolutions = nn.ModuleList(
            _frozen(weights.tensors[f"features.{index}.weight"], weights.tensors[f"features.{index}.bias"])
            for index in CONVOLUTIONS
        )
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
        with torch.no_grad():
            wanted = self.features(target)
        pairs = zip(LAYER_WEIGHTS.values(), self.features(restored), wanted, strict=True)
        return sum(weight * functional.l1_loss(ours.float(), theirs.float()) for weight, ours, theirs in pairs)

    def features(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Image (B, 3, H, W) -> the five compared feature maps, at 1, 1/2, 1/4, 1/8 and 1/16 of its size."""
        kind = image.device.type
        follow = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) is torch.bfloat16
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=follow):
            x = (image.float() - self.mean) / self.std
            compared = []
            for index, convolution in zip(CONVOLUTIONS, self.convolutions, strict=True):
                if index in LAYER_WEIGHTS and index > 0:
                    x = functional.max_pool2d(x, 2)
                x = functional.relu(convolution(x))
                if index in LAYER_WEIGHTS:
                    compared.append(x)
        return compared


def _frozen(weight: torch.Tensor, bias: torch.Tensor) -> nn.Conv2d:
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
    convolution.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return convolution.requires_grad_(False)
