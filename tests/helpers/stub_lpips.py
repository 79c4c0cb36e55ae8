"""Stands in for the package `lpips` in tests: the same constructor, call and names of tensors, with a small network of its own.

The package and its weights are not there when tests run. Its value is the mean absolute difference of the features.
"""

import torch
from torch import nn


class LPIPS(nn.Module):
    def __init__(self, net="alex", pnet_rand=False, verbose=True):
        super().__init__()
        assert pnet_rand, "without it the package downloads weights"
        side = {"alex": 11, "vgg": 3}[net]
        self.net = nn.Module()
        self.net.slice1 = nn.Sequential()
        self.net.slice1.add_module("0", nn.Conv2d(3, 2, side))
        self.net.slice2 = nn.Sequential()
        self.net.slice2.add_module("2", nn.Conv2d(2, 1, 1))
        self.requires_grad_(False)

    def forward(self, in0, in1, normalize=False):
        assert normalize, "images are in [0, 1]"
        ours, theirs = (self.net.slice2(self.net.slice1(2 * image - 1)) for image in (in0, in1))
        return (ours - theirs).abs().mean(dim=(1, 2, 3), keepdim=True)


def save_weights(path, side):
    """A weights file as torchvision has them, for a network whose features are the mean of a pixel's channels."""
    first = torch.zeros(2, 3, side, side)
    first[:, :, side // 2, side // 2] = 1 / 3
    tensors = {"features.0.weight": first, "features.0.bias": torch.zeros(2), "features.2.bias": torch.zeros(1)}
    tensors |= {"features.2.weight": torch.full((1, 2, 1, 1), 0.5), "classifier.1.weight": torch.zeros(4, 4)}
    torch.save(tensors, path)
