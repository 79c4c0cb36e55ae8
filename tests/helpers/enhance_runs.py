"""Runs of enhance_photos.py in this process, with a tiny network that brightens."""

from pathlib import Path

import torch

import enhance_photos
from darkir import DarkIR, NetworkConfig
from engine.checkpoint import save, weights_content

RESOLUTION = 24
ADDED = 0.06  # what the network adds to every pixel


def save_brighter(path: Path, added: float = ADDED) -> None:
    """A network whose last bias is raised, so that a result can be told from its photo."""
    torch.manual_seed(0)
    config = NetworkConfig(width=4, enc_blocks=(1,), middle_enc_blocks=1, middle_dec_blocks=1, dec_blocks=(1,))
    network = DarkIR(config)
    with torch.no_grad():
        network.ending.weight.zero_()
        network.ending.bias.fill_(added)
    save(path, weights_content(network, config, config={"data": {"resolution": RESOLUTION, "fit": "crop"}}))


def argv_of(checkpoint, photos, output, *flags) -> list[str]:
    """The command line; `photos`: one path, further ones by --input among the flags."""
    words = ["--checkpoint", checkpoint, "--input", photos, "--output", output, "--device", "cpu", *flags]
    return [str(word) for word in words]


def run(checkpoint, photos, output, *flags) -> int:
    """Run the command; its exit code."""
    return enhance_photos.main(argv_of(checkpoint, photos, output, *flags))
