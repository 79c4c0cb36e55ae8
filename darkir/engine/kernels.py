"""`--kernels plain|triton`: which set of operations a network computes with, and where the Triton set can run."""

from __future__ import annotations

import importlib.util

import torch

from darkir.architectures import Network
from darkir.engine.errors import RunRefused


def refuse_kernels(name: str, arch: str, device: torch.device) -> None:
    """RunRefused when the kernels that --kernels names cannot run this architecture on this device."""
    if name == "plain":
        return
    if arch != "darkir":
        raise RunRefused(f"--kernels {name} with --arch {arch}: the kernels are those of DarkIR; use --kernels plain")
    if importlib.util.find_spec("triton") is None:
        raise RunRefused(f"--kernels {name}: Triton is not installed (pip install triton); or use --kernels plain")
    from triton import knobs

    if device.type != "cuda" and not knobs.runtime.interpret:
        raise RunRefused(f"--kernels {name}: Triton needs a CUDA device, this run has {device}; use --kernels plain")


def use_kernels(network: Network, name: str) -> None:
    """Let the network, and every copy of it, compute with these kernels."""
    if name == "triton":
        from darkir.kernels import TRITON  # imports Triton, which not every machine has

        network.use(TRITON)
