"""Variables of torchrun or srun -> this process's place among several that train one model, and what they exchange.

One process alone needs none of it. The global batch is what --batch_size says, whatever the number of processes: each takes its
share, gradients are averaged, and so every process holds the same weights at every update. Rank 0 writes.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from common.errors import InputError

# A process may wait this long for the others: rank 0 writes checkpoints and reports while they wait.
PATIENCE = timedelta(minutes=30)
FIRST_PORT, PORTS = 20000, 20000


@dataclass(frozen=True)
class World:
    """This process among `size` processes; `local_rank` counts those on this machine."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process writes files and log lines."""
        return self.rank == 0

    def share(self, items: list) -> list:
        """This process's part of `items`: every size-th one, nothing twice, nothing padded."""
        return items[self.rank :: self.size]

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over all processes, in place."""
        if self.size > 1:
            distributed.all_reduce(values)
            values /= self.size
        return values

    def any(self, mine: bool, device: torch.device) -> bool:
        """Whether any process says yes; all get the same answer."""
        if self.size == 1:
            return mine
        flag = torch.tensor([float(mine)], device=device)
        distributed.all_reduce(flag)
        return bool(flag.item())

    def gather(self, mine: Any) -> list[Any]:
        """Plain objects of all processes, in the order of their ranks, on every process."""
        if self.size == 1:
            return [mine]
        everyone: list[Any] = [None] * self.size
        distributed.all_gather_object(everyone, mine)
        return everyone

    def wait_for_all(self) -> None:
        """Return when every process has reached this call."""
        if self.size > 1:
            distributed.barrier()


def average_gradients(parameters: list[torch.nn.Parameter], world: World) -> None:
    """Replace the gradients of `parameters` by their means over all processes: one transfer for all of them."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world.size == 1 or not gradients:
        return
    flat = world.mean(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


@contextlib.contextmanager
def joined(device: torch.device, batch_size: int) -> Iterator[tuple[World, torch.device]]:
    """This process among those that it was started with, by torchrun or by srun with one task a GPU, and its own device.

    They are connected while the block lasts; disconnected in the end, so that no process waits for one that has ended.
    Raises InputError when the batch cannot be shared evenly, or this machine has fewer GPUs than processes.
    """
    world = read_world()
    try:
        yield world, join(world, device, batch_size)
    finally:
        if world.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def read_world() -> World:
    """This process's place, from torchrun's variables or those of an srun step; one process alone otherwise.

    The batch shell of a Slurm job has SLURM_PROCID too, but no step: it is one process.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return World(int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", 0)), int(os.environ["WORLD_SIZE"]))
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if "SLURM_STEP_ID" in os.environ and os.environ["SLURM_STEP_ID"].isdigit() and tasks > 1:
        return World(int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_LOCALID"]), tasks)
    return World()


def join(world: World, device: torch.device, batch_size: int) -> torch.device:
    """Connect the processes (NCCL on CUDA, Gloo on CPU); returns this process's own device. InputError as in `joined`."""
    if world.size == 1:
        return device
    if batch_size % world.size:
        raise InputError(f"--batch_size {batch_size}: must be a multiple of the {world.size} processes")
    if device.type == "cuda":
        if world.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {world.rank}: {torch.cuda.device_count()} GPUs on this machine, but it is number "
                f"{world.local_rank + 1} here; start one process a GPU"
            )
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_host()
        os.environ["MASTER_PORT"] = str(FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % PORTS)
    backend = "nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, rank=world.rank, world_size=world.size, timeout=PATIENCE)
    return device


def _first_host() -> str:
    """The first machine of this srun step, as Slurm itself expands the list."""
    nodes = os.environ.get("SLURM_STEP_NODELIST", os.environ.get("SLURM_NODELIST", "localhost"))
    if "[" not in nodes and "," not in nodes:
        return nodes
    shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return shown.stdout.split()[0]
