"""Checkpoints that run no code but would end a reader in a traceback, a hang or without memory; for tests and make fuzz."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import torch

Content = dict
HUGE = 10**6


def with_tensor(content: Content, tensor: torch.Tensor) -> Content:
    """The content with another tensor under one name of `params`."""
    return {**content, "params": {**content["params"], "intro.bias": tensor}}


def with_dilation(content: Content, value: int) -> Content:
    """The content of a network whose convolutions reach that far."""
    network = content["network"]
    return {**content, "network": {**network, "dilations": [value] * len(network["dilations"])}}


def cyclic() -> list:
    """A list that holds itself."""
    held: list = []
    held.append(held)
    return held


def doubled(times: int = 40) -> list:
    """A list of two lists of two lists ...: 40 objects, 2^40 values."""
    held: list = ["x"]
    for _ in range(times):
        held = [held, held]
    return held


def nested(depth: int = 200) -> list:
    """Lists in lists."""
    held: list = []
    for _ in range(depth):
        held = [held]
    return held


# Refused, wherever the file is used.
REFUSED: dict[str, Callable[[Content], Content]] = {
    "float8 weights": lambda content: with_tensor(content, torch.zeros(8).to(torch.float8_e4m3fn)),
    "weights without content": lambda content: with_tensor(content, torch.zeros(8, device="meta")),
    "weights of stride 0": lambda content: with_tensor(content, torch.zeros(1).expand(HUGE, HUGE)),
    "a tensor of stride 0 beside": lambda content: {**content, "epoch": torch.zeros(1).expand(HUGE, HUGE)},
    "a list that holds itself": lambda content: {**content, "config": {**content["config"], "data": cyclic()}},
    "photos seen that hold themselves": lambda content: {**content, "data": {**content["data"], "own": cyclic()}},
    "lists that double": lambda content: {**content, "config": {**content["config"], "data": doubled()}},
    "a history that doubles": lambda content: {**content, "history": doubled(), "scores": doubled()},
    "lists in lists": lambda content: {**content, "created_with": nested()},
}
if hasattr(torch, "float8_e8m0fnu"):  # torch 2.7 brought it; an older one cannot even read such a file
    REFUSED["float8 scales"] = lambda content: with_tensor(content, torch.ones(8).to(torch.float8_e8m0fnu))
# Odd, but the weights are sound and nothing of it is needed.
ACCEPTED: dict[str, Callable[[Content], Content]] = {
    "metrics that are not finite": lambda content: {
        **content,
        "metrics": {"psnr": float("nan"), "ssim": float("inf"), "l1": 0.1},
        "epoch": float("nan"),
    },
    "half of a surrogate pair": lambda content: {
        **content,
        "data": {**content["data"], "known": False, "sources": ["\udcff"]},
        "created_with": {"torch": "\udcff"},
    },
}


def zip_bomb(size: int = 2**40) -> bytes:
    """A small zip file whose directory claims an entry of `size` bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**20))
        archive.infolist()[0].file_size = size
    return stream.getvalue()
