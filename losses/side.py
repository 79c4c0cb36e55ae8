"""Side term: the network's 1/8-size side output against the target at that size, L1 + 0.01 VGG.

Feijoo et al., "DarkIR: Robust Low-Light Image Restoration", CVPR 2025: the loss on the encoder's low-resolution image.
It needs the VGG19 weights, whatever --lambda_vgg is.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from common.errors import InputError
from losses.numerics import in_float32
from losses.perceptual import SMALLEST_SIDE, PerceptualLoss
from losses.pixel import l1_loss

VGG_SHARE = 0.01


def side_loss(side: torch.Tensor, target: torch.Tensor, perceptual: PerceptualLoss) -> torch.Tensor:
    """L1 + 0.01 VGG of side (B, 3, h, w) and target (B, 3, H, W) resized to h x w; a float32 scalar.

    Raises InputError when h or w is under 16, the least that VGG19 takes.
    """
    height, width = side.shape[-2:]
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(
            f"--lambda_side: the side output is {width} x {height}, and VGG19 needs sides of at least {SMALLEST_SIDE}; "
            f"use --resolution {8 * SMALLEST_SIDE} or more, or set --lambda_side 0"
        )
    small = resize_to(target, side)
    return l1_loss(side, small) + VGG_SHARE * perceptual(side, small)


@in_float32
@torch.no_grad()
def resize_to(image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Image (B, 3, H, W) at the size of `like`, float32, bilinear and antialiased, without gradient."""
    return functional.interpolate(image, size=like.shape[-2:], mode="bilinear", antialias=True, align_corners=False)
