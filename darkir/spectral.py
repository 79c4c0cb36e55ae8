"""The transforms of FreMLP: real features -> magnitude and phasor of their spectrum, and back.

Published form: irfft2(p * cos(a), p * sin(a)) with z = rfft2(x), a = angle(z), p = process(|z|). Here p * u with
u = z / |z|, and u = 1 at z = 0 (angle(0) is 0): the same values, without the divisions by |z|^2 that make the published
gradients NaN when a channel nearly vanishes.

Each transform and each gradient is a torch custom operator on real tensors: torch.compile keeps them whole, and no
generated code has to handle complex numbers. A complex tensor is passed as its real view, with a last dimension of 2.
Conjugates are made with conj_physical: inside a compiled graph torch overlooks the mark that conj() only sets.
"""

import torch

# Below this magnitude a bin's phase is rounding noise; its gradient grows as 1 / |z| and carries no information.
PHASE_EPS = 1e-12


@torch.library.custom_op("darkir::spectrum", mutates_args=())
def spectrum(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Real (..., H, W) -> magnitude (..., H, W // 2 + 1) and phasor (..., H, W // 2 + 1, 2) of its rfft2."""
    z = torch.fft.rfft2(x.contiguous()).contiguous()
    magnitude = z.abs()
    phasor = z.sgn_().masked_fill_(magnitude == 0, 1)
    return magnitude, torch.view_as_real(phasor)


@torch.library.custom_op("darkir::spectrum_backward", mutates_args=())
def spectrum_backward(
    magnitude: torch.Tensor,
    phasor: torch.Tensor,
    grad_magnitude: torch.Tensor,
    grad_phasor: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """Gradient of `spectrum`: g_z = u * (g_magnitude + i * Im(conj(u) * g_u) / |z|), then the adjoint of rfft2."""
    u = torch.view_as_complex(phasor.contiguous())
    grad_u = torch.view_as_complex(grad_phasor.contiguous())
    turning = (u.conj_physical() * grad_u).imag / magnitude
    turning.masked_fill_(magnitude <= PHASE_EPS, 0)
    # |z| has a kink at 0: the gradient there is 0, as torch.abs has it.
    grad_z = torch.complex(grad_magnitude.masked_fill(magnitude == 0, 0), turning).mul_(u)
    # irfft2 counts each inner column twice, for the mirrored half; rfft2 made it only once.
    _inner_columns(grad_z, width).mul_(0.5)
    return torch.fft.irfft2(grad_z, s=(magnitude.shape[-2], width), norm="forward").contiguous()


@torch.library.custom_op("darkir::synthesis", mutates_args=())
def synthesis(magnitude: torch.Tensor, phasor: torch.Tensor, width: int) -> torch.Tensor:
    """Magnitude (..., H, W // 2 + 1) and phasor (the same, 2) -> real (..., H, width), the irfft2 of their product."""
    z = torch.view_as_complex(phasor.contiguous()) * magnitude
    return torch.fft.irfft2(z, s=(magnitude.shape[-2], width)).contiguous()


@torch.library.custom_op("darkir::synthesis_backward", mutates_args=())
def synthesis_backward(
    magnitude: torch.Tensor, phasor: torch.Tensor, grad: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of `synthesis` for magnitude and phasor: the adjoint of irfft2, then the product rule."""
    grad_z = torch.fft.rfft2(grad.contiguous(), norm="forward").contiguous()
    _inner_columns(grad_z, grad.shape[-1]).mul_(2)
    u = torch.view_as_complex(phasor.contiguous())
    return (grad_z * u.conj_physical()).real.contiguous(), torch.view_as_real(grad_z * magnitude)


def _inner_columns(half_spectrum: torch.Tensor, width: int) -> torch.Tensor:
    """The columns that stand for two of the full spectrum: all but the first and, at even width, the last."""
    return half_spectrum[..., 1 : (width + 1) // 2]


@spectrum.register_fake
def _(x):
    bins = (*x.shape[:-1], x.shape[-1] // 2 + 1)
    return x.new_empty(bins), x.new_empty((*bins, 2))


@spectrum_backward.register_fake
def _(magnitude, phasor, grad_magnitude, grad_phasor, width):
    return magnitude.new_empty((*magnitude.shape[:-1], width))


@synthesis.register_fake
def _(magnitude, phasor, width):
    return magnitude.new_empty((*magnitude.shape[:-1], width))


@synthesis_backward.register_fake
def _(magnitude, phasor, grad):
    return magnitude.new_empty(magnitude.shape), phasor.new_empty(phasor.shape)


def _save_spectrum(ctx, inputs, output):
    ctx.save_for_backward(*output)
    ctx.width = inputs[0].shape[-1]


def _spectrum_gradient(ctx, grad_magnitude, grad_phasor):
    return spectrum_backward(*ctx.saved_tensors, grad_magnitude, grad_phasor, ctx.width)


def _save_synthesis(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], inputs[1])


def _synthesis_gradient(ctx, grad):
    return *synthesis_backward(*ctx.saved_tensors, grad), None


spectrum.register_autograd(_spectrum_gradient, setup_context=_save_spectrum)
synthesis.register_autograd(_synthesis_gradient, setup_context=_save_synthesis)
