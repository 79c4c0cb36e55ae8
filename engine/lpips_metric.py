"""A local weights file and the package `lpips` -> LPIPS of restored and target images: how different they look to a network.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR 2018, in its
authors' package, version 0.1 of their linear layers, which the package holds. What it would download is named with --lpips_weights
instead: torchvision's ImageNet weights of AlexNet (what most papers report) or VGG16.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from common.errors import InputError
from common.exits import flagged
from common.files import file_digest
from common.lists import shortened
from darkir.checkpoint_file import read_checkpoint
from darkir.weights import is_dense
from data.manifest import Pair
from engine.testing.config import EvaluationConfig

FLAG = "--lpips_weights"
REMEDY = (
    "run `python -c \"import torchvision; torchvision.models.alexnet(weights='IMAGENET1K_V1')\"` where there is internet (a login "
    "node); it leaves alexnet-owt-7be5be79.pth in checkpoints/ of torch's hub folder, which is the file to name"
)
# Side of the first convolution's kernel -> the network, and the shortest side of an image that its poolings leave something of.
KINDS = {11: ("alex", 31), 3: ("vgg", 16)}
DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth")  # as torchvision names its files


class Lpips:
    """Scores images; made by read_lpips. shortest: pixels that a side needs."""

    def __init__(self, network: nn.Module, kind: str, shortest: int, path: Path, sha256: str):
        self.network, self.kind, self.shortest, self.path, self.sha256 = network, kind, shortest, path, sha256

    def describe(self) -> str:
        """What two results must have in common to be compared, for settings and log."""
        return f"{self.kind}, weights {self.sha256[:8]}"

    @torch.no_grad()
    def __call__(self, restored: torch.Tensor, target: torch.Tensor) -> list[float]:
        """Images (B, 3, H, W) sRGB, clamped to [0, 1] here -> LPIPS of each: 0 for the same picture, lower is better, no unit."""
        images = zip(restored.float().clamp(0.0, 1.0), target.float().clamp(0.0, 1.0), strict=True)
        return [self.network(ours[None], theirs[None], normalize=True).item() for ours, theirs in images]


def read_lpips(path: str | None, device: torch.device) -> Lpips | None:
    """What --lpips_weights asks for, on `device`; None without it.

    Raises InputError when the package is not installed, and for a file that is not AlexNet's or VGG16's weights, or torn.
    """
    if path is None:
        return None
    try:
        import lpips
    except ImportError as error:
        raise InputError(
            f"{FLAG} needs the package lpips ({error}); install it: python3 -m pip install -r requirements-lpips.txt, or leave the "
            "flag out"
        ) from error
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{FLAG} {file}: no such file; {REMEDY}")
    digest, named = file_digest(file), DIGEST_IN_NAME.search(file.name)
    if named and not digest.startswith(named[1]):
        raise InputError(f"{FLAG} {file} is damaged: its sha256 starts with {digest[:8]}, not {named[1]}; {REMEDY}")
    with flagged(FLAG, file):
        content = read_checkpoint(file)
    first = content.get("features.0.weight")
    side = first.shape[-1] if isinstance(first, torch.Tensor) and first.ndim == 4 else 0
    if side not in KINDS:
        raise InputError(f"{FLAG} {file}: neither AlexNet's nor VGG16's weights, as torchvision has them; {REMEDY}")
    kind, shortest = KINDS[side]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # it uses old names of torchvision
        network = lpips.LPIPS(net=kind, pnet_rand=True, verbose=False)
    # `slice2.3.weight` is torchvision's `features.3.weight`.
    wanted = {name: f"features.{name.partition('.')[2]}" for name in network.net.state_dict()}
    lacking = [key for key in wanted.values() if not is_dense(content.get(key)) or not content[key].isfinite().all()]
    if lacking:
        raise InputError(f"{FLAG} {file}: no sound {', '.join(lacking[:3])} in it, which {kind} has; {REMEDY}")
    try:
        network.net.load_state_dict({name: content[key] for name, key in wanted.items()})
    except RuntimeError as error:
        raise InputError(
            f"{FLAG} {file}: not the weights of {kind} ({str(error).splitlines()[-1].strip()}); {REMEDY}"
        ) from error
    return Lpips(network.eval().to(device), kind, shortest, file, digest)


def refuse_small_frames(lpips: Lpips | None, pairs: Sequence[Pair], config: EvaluationConfig) -> None:
    """InputError naming the photos that are too small for LPIPS at this resolution."""
    if lpips is None or config.resolution is None:
        return
    if config.resolution < lpips.shortest:
        raise InputError(
            f"--resolution {config.resolution}: LPIPS of {lpips.kind} needs sides of {lpips.shortest} pixels"
        )
    native = config.fit == "crop"  # never enlarged
    small = [pair for pair in pairs if native and min(pair.row["width"], pair.row["height"]) < lpips.shortest]
    if small:
        names = shortened([f"{pair.src} ({pair.where})" for pair in small])
        raise InputError(
            f"{FLAG}: {len(small)} photos are smaller than the {lpips.shortest} pixels a side that LPIPS of {lpips.kind} needs: "
            f"{names}"
        )
