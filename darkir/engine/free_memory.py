"""How much memory a device can still give this process, in bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch


def free_bytes(device: torch.device) -> int:
    """CUDA: what the driver has left and what torch holds unused. CPU: what the machine has left and every cgroup allows."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return host_free_bytes()


def host_free_bytes(root: Path = Path("/")) -> int:
    """The smallest of what /proc/meminfo calls available and what the limits of this process's cgroups (v1, v2) leave.

    `root` is the folder in which proc and sys lie. Without /proc/meminfo it is the size of the machine's memory.
    """
    meminfo = root / "proc" / "meminfo"
    if not meminfo.exists():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = next(
        int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")
    )
    return max(0, min([available * 1024, *_cgroup_free(root)]))


def _cgroup_free(root: Path) -> Iterator[int]:
    """What each limit leaves, from this process's own cgroup up to the mount's top: a parent's limit binds as well."""
    membership = root / "proc" / "self" / "cgroup"
    for line in membership.read_text().splitlines() if membership.exists() else ():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current")
        elif "memory" in controllers.split(","):
            mount, names = root / "sys/fs/cgroup/memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        own = mount / path.lstrip("/")
        # Inside a container the path may be one of the host's; its top is what the container is bound by.
        for folder in (own, *own.parents):
            if folder.is_relative_to(mount):
                yield from _limit_leaves(folder, *names)


def _limit_leaves(folder: Path, limit_name: str, usage_name: str) -> Iterator[int]:
    limit_file = folder / limit_name
    if not limit_file.exists() or (limit := limit_file.read_text().strip()) == "max":
        return
    used = int((folder / usage_name).read_text())
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    # Cached files count as used, but give way.
    cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
    yield int(limit) - used + cached
