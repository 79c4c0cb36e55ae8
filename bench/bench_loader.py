"""What samples cost: decoding 12-megapixel photos in every epoch, against one pack of decoded pairs. Prints a Markdown table.

  python -m bench.bench_loader

Naive is what a plain Dataset does: Pillow opens and converts both JPEGs, then either the whole photo becomes float and is cropped,
or it is resized and the crop becomes float; ratios are to the cheaper of the two. Times are medians, with the range; epochs from
the cache are counted from the second one on; worker processes have CPU time of their own. The table of steps needs a CUDA GPU.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.bench_fivek import make_pairs
from bench.measure import SAMPLE, machine, table
from common.files import write_jsonl
from darkir.architectures import NetworkConfig
from darkir.network import DarkIR
from data.cache import PairCache, ResidentPairs, open_cache
from data.dataset import TrainingPairs
from data.fingerprint import fingerprint_pairs
from data.loader import BatchKeys, EpochPlan, training_batches
from data.manifest import Pair, read_pairs
from data.transforms import cut
from engine.distributed import World
from engine.runtime import choose_precision
from engine.training.config import TrainConfig
from engine.training.updates.execution import Stepper, train_step
from engine.training.updates.learner import make_learner
from losses.config import LossConfig
from losses.objective import Objective

WIDTH, HEIGHT = 4272, 2848
BATCH, ROUNDS, BATCHES = 8, 5, 30
SEED = 1
GPU_STEPS = 50
HEADER = ("what", "time a pair", "its CPU time in this process", "CPU of naive")

Cost = tuple[float, float]  # seconds that pass, CPU seconds of this process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8, help="12-megapixel pairs")
    parser.add_argument("--resolution", type=int, default=384, help="side of the training crop")
    args = parser.parse_args()
    torch.set_num_threads(1)  # what a loader process has
    print(machine())
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        mean_bytes = make_pairs(folder, args.pairs, WIDTH, HEIGHT)
        names = sorted(path.name for path in (folder / "input").iterdir())
        manifest = [{"src": f"input/{name}", "tar": f"output_expert_C/{name}"} for name in names]
        write_jsonl(folder / "pairs.jsonl", manifest)
        large = fingerprint_pairs(read_pairs(folder / "pairs.jsonl"))
        title = f"{len(large)} pairs of {WIDTH} x {HEIGHT} JPEG, {mean_bytes / 1e6:.1f} MB a file"
        sample = fingerprint_pairs(read_pairs(SAMPLE))
        kinds = {title: (large, args.resolution), "data/sample, 256 x 192 JPEG": (sample, 192)}
        for number, (title, (pairs, side)) in enumerate(kinds.items()):
            rows, cache = measure(pairs, side, folder / f"cache{number}")
            print(f"\n{title}, crops of {side}\n\n{table(HEADER, rows)}", flush=True)
            if number == 0:
                print("\n" + gpu_table(pairs, side, cache))


def measure(pairs: list[Pair], side: int, folder: Path) -> tuple[list[list[str]], PairCache]:
    """The table's rows for one set, and its cache."""
    naive = {
        "naive, whole photo to float, crop": [cost_of(whole_to_float, pair, side) for pair in pairs],
        "naive, resize, crop to float": [cost_of(resized, pair, side) for pair in pairs],
    }
    basis = min(statistics.median(cpu for _, cpu in costs) for costs in naive.values())
    rows = [row(name, costs, basis) for name, costs in naive.items()]
    build = cost_of(open_cache, pairs, side, "crop", "disk", folder, lambda line: print(line, file=sys.stderr))
    rows.append(row(f"building the cache, once ({len(pairs) / build[0]:.1f} pairs/s)", [build], basis, len(pairs)))
    check = [cost_of(open_cache, pairs, side, "crop", "disk", folder, str) for _ in range(ROUNDS)]
    rows.append(row("checking it, once a start", check, basis, len(pairs)))
    cache = open_cache(pairs, side, "crop", "disk", folder, str)
    for preprocess in ("none", "light_aug", "strong_aug"):
        dataset = TrainingPairs(pairs, side, "crop", preprocess, SEED, cache)
        for workers in (0, 2):
            costs, each = epoch_costs(dataset, workers)
            rows.append(row(f"epoch from the cache, {preprocess}, {workers} workers", costs, basis, each))
    rows.append(row("one crop of one image, into its batch", crop_costs(pairs, side, cache), basis))
    return rows, cache


def whole_to_float(pair: Pair, side: int) -> list[torch.Tensor]:
    """Both photos as ToTensor gives them, then cropped."""
    return [to_tensor(Image.open(path).convert("RGB"))[:, :side, :side] for path in (pair.src_path, pair.tar_path)]


def resized(pair: Pair, side: int) -> list[torch.Tensor]:
    """Both photos with the short side at `side`, cropped, as ToTensor gives them."""
    crops = []
    for path in (pair.src_path, pair.tar_path):
        image = Image.open(path).convert("RGB")
        scale = side / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        crops.append(to_tensor(image.resize(size, Image.Resampling.BICUBIC).crop((0, 0, side, side))))
    return crops


def to_tensor(image: Image.Image) -> torch.Tensor:
    """(3, H, W) float32 in [0, 1]: the steps of torchvision's ToTensor."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)


def epoch_costs(dataset: TrainingPairs, workers: int) -> tuple[list[Cost], int]:
    """Some epochs after the first, in parts; and how many pairs a part has. A batch is taken as soon as it is there."""
    plan = EpochPlan(len(dataset), min(BATCH, len(dataset)), 1)
    epochs = 1 + -(-ROUNDS * BATCHES // plan.updates)
    batches = training_batches(dataset, BatchKeys(plan, SEED, epochs, 0, 0, 1), workers, pin=False)

    def take(count: int) -> None:
        for _ in range(count):
            next(batches)

    take(plan.updates)
    each = (epochs - 1) * plan.updates // ROUNDS
    return [cost_of(take, each) for _ in range(ROUNDS)], each * plan.batch_size


def crop_costs(pairs: list[Pair], side: int, cache: PairCache) -> list[Cost]:
    """The drawn window of each source, copied out of the pack."""
    dataset = TrainingPairs(pairs, side, "crop", "none", SEED, cache)
    out = torch.empty(3, side, side, dtype=torch.uint8)
    keys = EpochPlan(len(pairs), 1, 1).keys(SEED, 0) * ROUNDS
    cases = [(cache(pairs[key.index], dataset.size_of(key.index))[0], dataset.draw(key)) for key in keys]
    return [cost_of(lambda image, draw: out.copy_(cut(image, draw, side)), *case) for case in cases]


def gpu_table(pairs: list[Pair], side: int, cache: PairCache) -> str:
    """Where the batches of DarkIR-m's training step come from and what that adds to it; `not measured` without a GPU."""
    header, rows = (f"step of DarkIR-m, batch {BATCH}, crops of {side}", "a step", "loader's share"), []
    if not torch.cuda.is_available():
        return table(header, [["on a CUDA GPU", "not measured", "not measured"]])
    for mixed in (False, True):
        times = step_seconds(pairs, side, cache, torch.device("cuda"), mixed)
        alone = times["no loader: one batch again and again"]
        name = "bfloat16" if mixed else "float32"
        rows += [[f"{name}, {how}", shown(each), f"{1 - alone / each:.1%}"] for how, each in times.items()]
    return table(header, rows)


def step_seconds(
    pairs: list[Pair], side: int, cache: PairCache, device: torch.device, mixed: bool, width: int = 32
) -> dict[str, float]:
    """Median seconds of a full training step (L1 only), by where its batches come from."""
    dataset = TrainingPairs(pairs, side, "crop", "strong_aug", SEED, cache)
    keys = BatchKeys(EpochPlan(len(pairs), BATCH, 1), SEED, GPU_STEPS, 0, 0, 1)
    resident = ResidentPairs(cache, device)
    sources = {
        "no loader: one batch again and again": itertools.repeat(next(resident.training_batches(dataset, keys))),
        "batches made on the GPU": resident.training_batches(dataset, keys),
        "4 loader processes": training_batches(dataset, keys, 4, pin=device.type == "cuda"),
    }
    config, precision = TrainConfig(), choose_precision(device, mixed, "auto")
    objective = Objective(LossConfig(lambda_vgg=0, lambda_ssim=0), device)
    network = DarkIR(NetworkConfig(width=width)).to(device, memory_format=torch.channels_last)
    stepper = Stepper(make_learner(network, precision, config), objective, precision, World(), config.grad_clip)
    times: dict[str, list[float]] = {name: [] for name in sources}
    for update in range(GPU_STEPS):
        for name, batches in sources.items():  # in turn, so that a change of the clock hits all of them
            started = time.perf_counter()
            batch = next(batches)
            # It ends with its numbers on the host, so the clock needs no further synchronisation.
            train_step(stepper, [batch], update, config.lr).result()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(each[GPU_STEPS // 5 :]) for name, each in times.items()}


def cost_of(action: Callable[..., object], *arguments: object) -> Cost:
    """What one call costs. On a machine that others use, the CPU time is the steadier of the two."""
    started, cpu = time.perf_counter(), time.process_time()
    action(*arguments)
    return time.perf_counter() - started, time.process_time() - cpu


def row(name: str, costs: list[Cost], basis: float, pairs: int = 1) -> list[str]:
    """One line of the table, per pair: median and range of the time, median CPU time, and that as a share of `basis`."""
    times, cpus = ([value / pairs for value in values] for values in zip(*costs, strict=True))
    spread = f" ({shown(min(times))} to {shown(max(times))})" if len(times) > 1 else ""
    cpu = statistics.median(cpus)
    return [name, f"{shown(statistics.median(times))}{spread}", shown(cpu), f"{cpu / basis:.3%}"]


def shown(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds >= 0.01 else f"{1e6 * seconds:.0f} µs"


if __name__ == "__main__":
    main()
