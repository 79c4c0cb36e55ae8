#!/usr/bin/env python3
"""Stands in for the interpreter in tests of the wrappers: notes what it is asked to run, leaves what a step that ends well leaves.

STUB_LOG: file that gets one JSON object a call. STUB_ENDS: `WORD=CODE` pairs, comma-separated; a call whose command line holds WORD
ends with CODE and leaves nothing. STUB_WAIT: a call whose command line holds this word waits for a signal and ends with 75.
STUB_DEVICE: when it is set, devices are checked as they are; else every one is there.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


def value(flag: str) -> Path:
    return Path(sys.argv[sys.argv.index(flag) + 1])


def leave(folder: Path, *names: str, text: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(text)


def leave_outputs(script: str) -> None:
    output = value("--output_dir")
    if script == "create_data_splits.py":
        kind = "input_jsonl" if "--input_jsonl" in sys.argv else "input_dir"
        config = {"input_jsonl": None, "input_dir": None, kind: str(value(f"--{kind}"))}
        leave(output, "split_metadata.json", text=json.dumps({"config": config}))
    elif script == "prepare_fivek_robust.py":
        leave(output, "train.jsonl")
        config = {"expert": str(value("--expert")), "limit": None}
        leave(output, "dataset_metadata.json", text=json.dumps({"config": config, "reject_rate": 0.01}))
    elif script == "evaluate_darkir_test.py":
        leave(output, "test_results.json")
    elif "--train_jsonl" in sys.argv:
        leave(output, "checkpoint_best.pt", "checkpoint_final.pt")
    else:
        folds = [str(value("--fold"))] if "--fold" in sys.argv else range(1, int(str(value("--n_folds"))) + 1)
        for fold in folds:
            leave(output / f"fold_{fold}", "checkpoint_best.pt", "checkpoint_final.pt")


def main() -> int:
    checks_device = sys.argv[1].endswith("check_device.py")
    if checks_device and "STUB_DEVICE" not in os.environ:
        return 0
    if sys.argv[1] == "-" or checks_device:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    received = []
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: received.append(number))
    line = " ".join(sys.argv[1:])
    script = Path(sys.argv[1]).name
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    with open(os.environ["STUB_LOG"], "a") as log:
        log.write(json.dumps({"script": script, "argv": sys.argv[2:], "gpu": gpu}) + "\n")
    for rule in filter(None, os.environ.get("STUB_ENDS", "").split(",")):
        word, code = rule.rsplit("=", 1)
        if word in line:
            return int(code)
    wait = os.environ.get("STUB_WAIT")
    deadline = time.monotonic() + 20
    while wait and wait in line and time.monotonic() < deadline:
        if received:
            return 75
        time.sleep(0.02)
    leave_outputs(script)
    return 0


if __name__ == "__main__":
    sys.exit(main())
