"""The transforms of FreMLP: real features -> magnitude and phasor of their spectrum, and back.

Published form: irfft2(p * cos(a), p * sin(a)) with z = rfft2(x), a = angle(z), p = process(|z|). Here p * u with
u = z / |z|, and u = 1 at z = 0 (angle(0) is 0): the same values, without the divisions by |z|^2 that make the published
gradients NaN when a channel nearly vanishes.

A complex tensor is passed as its real view, with a last dimension of 2. The two transforms are custom operators on such
tensors, and what lies between them is plain real arithmetic wherever torch.compile looks: it fuses that, and its generated code
never meets a complex number. Without the compiler the same formulas run on complex views, because torch has one kernel for each
of them, and none that is quick over a last dimension of 2.
"""

from __future__ import annotations

from typing import Any

import torch

# Below this magnitude a bin's phase is rounding noise; its gradient grows as 1 / |z| and carries no information.
PHASE_EPS = 1e-12


def spectrum(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Real (..., H, W) -> magnitude (..., H, W // 2 + 1) and phasor (..., H, W // 2 + 1, 2) of its rfft2."""
    magnitude, phasor = Polar.apply(real_to_half(x.contiguous()))
    return magnitude, phasor


def synthesis(magnitude: torch.Tensor, phasor: torch.Tensor, width: int) -> torch.Tensor:
    """Magnitude (..., H, W // 2 + 1) and phasor (the same, 2) -> real (..., H, width), the irfft2 of their product."""
    return half_to_real(Product.apply(magnitude, phasor), width)


@torch.library.custom_op("darkir::real_to_half", mutates_args=())
def real_to_half(x: torch.Tensor) -> torch.Tensor:
    """rfft2 of contiguous real planes (..., H, W) -> the half spectrum (..., H, W // 2 + 1, 2)."""
    return torch.view_as_real(torch.fft.rfft2(x).contiguous())


@torch.library.custom_op("darkir::half_to_real", mutates_args=())
def half_to_real(half: torch.Tensor, width: int) -> torch.Tensor:
    """irfft2 of a half spectrum (..., H, W // 2 + 1, 2) -> real planes (..., H, width)."""
    return torch.fft.irfft2(torch.view_as_complex(half.contiguous()), s=(half.shape[-3], width)).contiguous()


@real_to_half.register_fake
def _(x):
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2 + 1, 2))


@half_to_real.register_fake
def _(half, width):
    return half.new_empty((*half.shape[:-2], width))


def _counts(width: int, like: torch.Tensor) -> torch.Tensor:
    """(W // 2 + 1, 1): how many columns of the full spectrum a column of the half one stands for. 2, but for the first and, at
    even width, the last."""
    column = torch.arange(width // 2 + 1, device=like.device)
    return (2 - ((column == 0) | (2 * column == width)).to(like.dtype)).unsqueeze(-1)


def _keep_width(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.width = inputs[0].shape[-1]


def _real_to_half_gradient(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
    # The adjoint: irfft2 without its 1 / (H W), which counts each inner column twice where rfft2 made it once.
    pixels = grad.shape[-3] * ctx.width
    return half_to_real((grad * (pixels / _counts(ctx.width, grad))).contiguous(), ctx.width)


def _half_to_real_gradient(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
    width = grad.shape[-1]
    return real_to_half(grad.contiguous()) * (_counts(width, grad) / (grad.shape[-2] * width)), None


real_to_half.register_autograd(_real_to_half_gradient, setup_context=_keep_width)
half_to_real.register_autograd(_half_to_real_gradient)


class Polar(torch.autograd.Function):
    """Half spectrum z (..., 2) -> magnitude |z| (...) and phasor u = z / |z| (..., 2).

    Gradient: u * (g_magnitude + i * Im(conj(u) * g_u) / |z|). 0 where |z| has its kink, and without the turning part where the
    phase is noise.
    """

    @staticmethod
    def forward(ctx: Any, half: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.compiler.is_compiling():
            magnitude = torch.hypot(half[..., 0], half[..., 1])
            vanished = (magnitude == 0).unsqueeze(-1)
            one = 1.0 - torch.arange(2, device=half.device, dtype=half.dtype)
            phasor = torch.where(vanished, one, half / magnitude.unsqueeze(-1))
        else:
            z = torch.view_as_complex(half)
            magnitude = z.abs()
            # Without a gradient nobody else needs z: its memory is used again.
            u = z.sgn() if ctx.needs_input_grad[0] else z.sgn_()
            phasor = torch.view_as_real(u.masked_fill_(magnitude == 0, 1))
        ctx.save_for_backward(magnitude, phasor)
        return magnitude, phasor

    @staticmethod
    def backward(ctx: Any, grad_magnitude: torch.Tensor, grad_phasor: torch.Tensor) -> torch.Tensor:
        magnitude, phasor = ctx.saved_tensors
        along = grad_magnitude.masked_fill(magnitude == 0, 0)
        if torch.compiler.is_compiling():
            sign = 2.0 * torch.arange(2, device=phasor.device, dtype=phasor.dtype) - 1.0
            turned = phasor.flip(-1) * sign  # i * u
            turning = ((turned * grad_phasor).sum(-1) / magnitude).masked_fill(magnitude <= PHASE_EPS, 0)
            return along.unsqueeze(-1) * phasor + turning.unsqueeze(-1) * turned
        u, grad_u = torch.view_as_complex(phasor), torch.view_as_complex(grad_phasor.contiguous())
        turning = (u.conj() * grad_u).imag / magnitude
        turning.masked_fill_(magnitude <= PHASE_EPS, 0)
        return torch.view_as_real(torch.complex(along, turning).mul_(u))


class Product(torch.autograd.Function):
    """Magnitude (...) and phasor (..., 2) -> their product (..., 2), and the product rule."""

    @staticmethod
    def forward(ctx: Any, magnitude: torch.Tensor, phasor: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(magnitude, phasor)
        if torch.compiler.is_compiling():
            return magnitude.unsqueeze(-1) * phasor
        return torch.view_as_real(torch.view_as_complex(phasor) * magnitude)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        magnitude, phasor = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return (grad * phasor).sum(-1), grad * magnitude.unsqueeze(-1)
        grad, u = torch.view_as_complex(grad.contiguous()), torch.view_as_complex(phasor)
        return (grad * u.conj()).real.contiguous(), torch.view_as_real(grad * magnitude)
