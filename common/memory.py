"""What this process may use of the machine: CPUs, and memory within the limits of its cgroups (v1, v2). Needs no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def usable_cpus() -> int:
    """The CPUs that this process may use (a scheduler may allow fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that this process may use in all: the machine's, or less where a scheduler or container allows less."""
    return min([_machine_memory(), *(limit for _, limit, _ in _limits(root))])


def host_free_bytes(root: Path = Path("/")) -> int:
    """The smallest of what /proc/meminfo calls available and what the limits of this process's cgroups leave.

    `root` is the folder in which proc and sys lie. Without /proc/meminfo it is the size of the machine's memory.
    """
    meminfo = root / "proc" / "meminfo"
    if not meminfo.exists():
        return _machine_memory()
    available = next(
        int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:")
    )
    return max(0, min([available * 1024, *(_left(*limit) for limit in _limits(root))]))


def _machine_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limits(root: Path) -> Iterator[tuple[Path, int, str]]:
    """(cgroup folder, its limit in bytes, name of the file with its use), from this process's own cgroup up to the mount's
    top: a parent's limit binds as well."""
    membership = root / "proc" / "self" / "cgroup"
    for line in membership.read_text().splitlines() if membership.exists() else ():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            mount, limit_name, usage_name = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            mount, limit_name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
            usage_name = "memory.usage_in_bytes"
        else:
            continue
        own = mount / path.lstrip("/")
        # Inside a container the path may be one of the host's; its top is what the container is bound by.
        for folder in (own, *own.parents):
            if folder.is_relative_to(mount) and (folder / limit_name).exists():
                limit = (folder / limit_name).read_text().strip()
                if limit != "max":
                    yield folder, int(limit), usage_name


def _left(folder: Path, limit: int, usage_name: str) -> int:
    used = int((folder / usage_name).read_text())
    statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    # Cached files count as used, but give way.
    cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
    return limit - used + cached
