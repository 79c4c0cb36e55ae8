"""A Slurm cluster of this one machine: its own munged, slurmctld and slurmd, all state in one folder, own ports, always stopped.

The node claims GPUs, CPUs and memory that need not be there, so that the wrappers' own #SBATCH requests are tested as they stand.
There is one `slot`: who asks for it in the partition `urgent` takes it from a job in `requeued` or `cancelled`, named after what
that job then meets with.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
START_SECONDS = 60
PR_SET_PDEATHSIG = 1
CONF = """
ClusterName=darkir
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
GresTypes=gpu,slot
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=3600
KillWait=30
ReturnToService=2
SlurmdParameters=config_overrides
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=1000000 Gres=gpu:{cpus},slot:1
PartitionName=main Nodes={host} Default=YES PriorityTier=5 PreemptMode=OFF
PartitionName=requeued Nodes={host} PriorityTier=1 PreemptMode=REQUEUE
PartitionName=cancelled Nodes={host} PriorityTier=1 PreemptMode=CANCEL
PartitionName=urgent Nodes={host} PriorityTier=10 PreemptMode=OFF
"""


def why_not() -> str | None:
    """Why no cluster can be had here, or None."""
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=search) is None]
    if missing:
        return (
            f"Slurm is not installed ({', '.join(missing)} missing): make install-slurm, as root, on Debian or Ubuntu"
        )
    if os.geteuid() != 0:
        return "Slurm's daemons must be started as root"
    return None


class Cluster:
    """Runs from `start` to `stop`; `environment` makes Slurm's commands talk to it."""

    def __init__(self, folder: Path, cpus: int):
        self.folder, self.cpus = folder, cpus
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin",
        }
        self._daemons: list[subprocess.Popen] = []

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs. Raises RuntimeError with what their logs say."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        host = socket.gethostname().split(".")[0]
        ports = free_ports(2)
        values = {"host": host, "folder": self.folder, "cpus": self.cpus}
        conf = CONF.format(controller_port=ports[0], node_port=ports[1], **values)
        (self.folder / "slurm.conf").write_text(conf)
        # Files stand in for the devices: Slurm only counts them and numbers them in CUDA_VISIBLE_DEVICES.
        for number in range(self.cpus):
            (self.folder / f"gpu{number}").touch()
        devices = f"{self.folder}/gpu[0-{self.cpus - 1}]"
        (self.folder / "gres.conf").write_text(
            f"NodeName={host} Name=gpu File={devices}\nNodeName={host} Name=slot Count=1\n"
        )
        own = [f"--{name}={self.folder}/munge.{suffix}" for name, suffix in MUNGE_FILES.items()]
        self._run("munged", "--foreground", "--force", *own)
        self._run("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        self._run("slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", host)
        self._wait_for_node()

    def _run(self, program: str, *arguments: str) -> None:
        path = shutil.which(program, path=self.environment["PATH"])
        with open(self.folder / f"{program}.out", "wb") as out:
            streams = {"stdout": out, "stderr": subprocess.STDOUT}
            daemon = subprocess.Popen([path, *arguments], env=self.environment, preexec_fn=end_with_parent, **streams)
        self._daemons.append(daemon)

    def _wait_for_node(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if set(self.command("sinfo", "--noheader", "--format=%T", check=False).split()) == {"idle"}:
                return
            time.sleep(0.3)
        logs = [path.read_text(errors="replace")[-1500:] for path in sorted(self.folder.glob("*.log"))]
        raise RuntimeError("Slurm did not start:\n" + "\n".join(logs))

    def command(self, *words: str, check: bool = True, cwd: Path | None = None, env: dict | None = None) -> str:
        """Output of a command, run in the cluster's environment. Raises RuntimeError with its message when it fails."""
        places = {"cwd": cwd or self.folder, "env": env or self.environment}
        ended = subprocess.run(words, **places, capture_output=True, text=True, timeout=60, check=False)
        if check and ended.returncode != 0:
            raise RuntimeError(f"{' '.join(words)}: {ended.stderr}{ended.stdout}")
        return ended.stdout

    def stop(self) -> None:
        """End all jobs and the daemons, last started first."""
        self.command("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        self.command("scancel", "--user=root", check=False)
        self._wait_for_empty_queue()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _wait_for_empty_queue(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.command("squeue", "--noheader", check=False).strip():
            time.sleep(0.3)


MUNGE_FILES = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


def end_with_parent() -> None:
    """Let the kernel end this process when its parent dies, even by SIGKILL."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_ports(count: int) -> list[int]:
    """TCP ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
