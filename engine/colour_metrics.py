"""Restored and target images -> how far their colours are apart to the eye (Delta E 2000), clipped highlights, crushed shadows.

sRGB -> linear (IEC 61966-2-1) -> XYZ (D65) -> CIE L*a*b* -> CIEDE2000 by Sharma, Wu, Dalal, "The CIEDE2000 color-difference
formula: implementation notes, supplementary test data, and mathematical observations" (2005). A Delta E of 1 is about the least
difference that a trained eye sees; k_L = k_C = k_H = 1. Computed in strips of rows, so that a photo of any size needs the same
little memory beside itself.
"""

from __future__ import annotations

import math

import torch

STRIP_PIXELS = 2**17  # some 40 planes of them live at a time, 20 MiB, which a processor's cache nearly holds
BRIGHTEST, DARKEST = 254.5 / 255, 0.5 / 255  # from here on a file of 8 bits has 255, or 0
BIN = 0.01  # Delta E; the percentile's steps
MOST_DELTA_E = 200.0  # two colours of sRGB are about 117 apart at most
# sRGB's primaries in XYZ, each row divided by its sum, which is the white point: white has a* = b* = 0.
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
EPSILON, KAPPA = 216 / 24389, 24389 / 27  # of CIE L*a*b*
DEGREE = math.pi / 180


@torch.no_grad()
def colour_metrics(restored: torch.Tensor, target: torch.Tensor) -> list[dict[str, float]]:
    """Finite images (B, 3, H, W) sRGB, clamped to [0, 1] here -> one record of COLOUR (engine/metrics.py) an image.

    delta_e: the mean over pixels. delta_e_p95: the least Delta E, to 0.01, that 95 % of the pixels do not exceed.
    clipped_percent: pixels, in percent, with a channel at 254.5 / 255 or above that is below it in the target.
    crushed_percent: the same with 0.5 / 255 or below. So what is white or black in the target counts as no loss.
    """
    return [_of_image(ours, theirs) for ours, theirs in zip(restored, target, strict=True)]


def _of_image(restored: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    _, height, width = target.shape
    pixels, rows = height * width, max(1, STRIP_PIXELS // width)
    counts = torch.zeros(round(MOST_DELTA_E / BIN) + 1, dtype=torch.int64, device=target.device)
    sums = torch.zeros(3, dtype=torch.float64, device=target.device)
    for top in range(0, height, rows):
        ours, theirs = (image[:, top : top + rows].float().clamp(0.0, 1.0) for image in (restored, target))
        delta_e = delta_e_2000(lab_of(ours), lab_of(theirs))
        clipped = ((ours >= BRIGHTEST) & (theirs < BRIGHTEST)).any(dim=0)
        crushed = ((ours <= DARKEST) & (theirs > DARKEST)).any(dim=0)
        sums += torch.stack([values.sum(dtype=torch.float64) for values in (delta_e, clipped, crushed)])
        counts += torch.bincount((delta_e.flatten() / BIN).round().long(), minlength=len(counts))
    percentile = int((counts.cumsum(0) < math.ceil(0.95 * pixels)).sum())
    total, clipped_pixels, crushed_pixels = sums.tolist()
    return {
        "delta_e": total / pixels,
        "delta_e_p95": percentile * BIN,
        "clipped_percent": 100 * clipped_pixels / pixels,
        "crushed_percent": 100 * crushed_pixels / pixels,
    }


def lab_of(image: torch.Tensor) -> torch.Tensor:
    """sRGB (3, ...) in [0, 1] -> CIE L*a*b* (3, ...) under D65, of the same float type."""
    linear = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    planes = []
    for weights in TO_XYZ:  # not a matrix product, which a card may round to TF32
        relative = sum(weight / sum(weights) * plane for weight, plane in zip(weights, linear, strict=True))
        assert isinstance(relative, torch.Tensor)  # not the 0 of an empty sum
        planes.append(torch.where(relative > EPSILON, relative ** (1 / 3), (KAPPA * relative + 16) / 116))
    x, y, z = planes
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def delta_e_2000(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """CIEDE2000 of two tensors of L*a*b* (3, ...), as (...). The names are those of Sharma et al. 2005, angles in radians."""
    (l1, a1, b1), (l2, a2, b2) = one, other
    mean_c = (torch.hypot(a1, b1) + torch.hypot(a2, b2)) / 2
    stretch = 1.5 - 0.5 * _share_of_chroma(mean_c)
    a1, a2 = a1 * stretch, a2 * stretch
    c1, c2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * math.pi), torch.atan2(b2, a2) % (2 * math.pi)
    gray = c1 * c2 == 0

    delta_l, delta_c, apart = l2 - l1, c2 - c1, h2 - h1
    far = apart.abs() > math.pi  # the short way round goes through angle 0
    turn = torch.where(far, 2 * math.pi * apart.sign(), 0.0)
    delta_h = 2 * (c1 * c2).sqrt() * ((apart - turn) / 2).sin()  # 0 for gray

    mean_l, mean_c = (l1 + l2) / 2, (c1 + c2) / 2
    mean_h = torch.where(gray, h1 + h2, (h1 + h2 + turn.abs()) / 2) % (2 * math.pi)
    t = (
        1
        - 0.17 * (mean_h - 30 * DEGREE).cos()
        + 0.24 * (2 * mean_h).cos()
        + 0.32 * (3 * mean_h + 6 * DEGREE).cos()
        - 0.20 * (4 * mean_h - 63 * DEGREE).cos()
    )
    from_middle = (mean_l - 50).square()
    s_l = 1 + 0.015 * from_middle / (20 + from_middle).sqrt()
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    blue = 30 * DEGREE * (-((mean_h / DEGREE - 275) / 25).square()).exp()
    r_t = -2 * _share_of_chroma(mean_c) * (2 * blue).sin()
    l_term, c_term, h_term = delta_l / s_l, delta_c / s_c, delta_h / s_h
    squared = l_term.square() + c_term.square() + h_term.square() + r_t * c_term * h_term
    return squared.clamp(min=0.0).sqrt()


def _share_of_chroma(chroma: torch.Tensor) -> torch.Tensor:
    """sqrt(C^7 / (C^7 + 25^7))."""
    squared = (chroma / 25).square()
    seventh = squared * squared * squared * (chroma / 25)
    return (seventh / (seventh + 1)).sqrt()
