"""Checkpoints that would run code when they are unpickled; for tests. The code only leaves a file behind, as proof."""

import builtins
import io
import os
import pickle
import posix
import random
import subprocess
import sys
from pathlib import Path

import torch

# What an unguarded load does to a file, without torch: every call in the pickle is made, tensors aside.
UNPICKLE = """
import pickle, sys, zipfile

class Unpickler(pickle.Unpickler):
    def persistent_load(self, storage):
        return None

    def find_class(self, module, name):
        return (lambda *parts: None) if module.partition(".")[0] == "torch" else super().find_class(module, name)

path, kind = sys.argv[1:]
if kind == "zip":
    archive = zipfile.ZipFile(path)
    stream = archive.open(next(name for name in archive.namelist() if name.endswith("data.pkl")))
else:
    stream = open(path, "rb")
for _ in range(4 if kind == "legacy" else 1):  # before the content: magic number, protocol, facts about the system
    Unpickler(stream).load()
"""


class Malicious:
    """Unpickles to a call that leaves a file behind."""

    def __init__(self, proof: Path, dice: random.Random):
        touch = f"touch {proof}"
        python = f"open({str(proof)!r}, 'w').close()"
        self.call = dice.choice(
            [
                (os.system, (touch,)),
                (posix.system, (touch,)),
                (subprocess.call, (["touch", str(proof)],)),
                (builtins.exec, (python,)),
                (builtins.eval, (python,)),
                (Path.touch, (proof,)),
                (os.mkdir, (str(proof),)),
            ]
        )

    def __reduce__(self):
        return self.call


def saved(content: object, kind: str = "zip") -> bytes:
    """The bytes of a checkpoint in torch's zip form, its legacy form, or as a bare pickle."""
    if kind == "raw":
        return pickle.dumps(content, protocol=2)
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=kind == "zip")
    return stream.getvalue()


def run_its_code(path: Path, kind: str) -> None:
    """Unpickle the file of that kind in another process, with nothing to hold its code back."""
    subprocess.run([sys.executable, "-c", UNPICKLE, str(path), kind], check=True)


def malicious(dice: random.Random, content: dict, proof: Path) -> bytes:
    """The content with a call hidden somewhere in it."""
    evil, kind = Malicious(proof, dice), dice.choice(["zip", "legacy", "raw"])
    place = dice.choice(["alone", "beside", "in the weights", "deep"])
    if place == "alone":
        return saved(evil, kind)
    if kind == "raw":
        return saved({"params": {"intro.weight": evil}, "meta": [evil]}, kind)
    changed = dict(content)
    if place == "beside":
        changed["epoch"] = evil
    elif place == "in the weights":
        changed["params"] = {**content["params"], "intro.weight": evil}
    else:
        changed["data"] = {"own": [{"a": (1, [evil])}]}
    return saved(changed, kind)
