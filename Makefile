# make demo: splits, training, evaluation and pictures from the 48 embedded pairs. make test: the test suite.
# Both make their own environment in .venv; PYTHON names the interpreter that it is made from.

PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
DEMO ?= demo
OLDEST ?= .venv-oldest
TESTS ?= tests

.PHONY: demo test test-oldest test-long soak fuzz lint bench check-gpu bench-gpu coverage ablation test-slurm install-slurm install-chromium \
    clean

$(VENV)/.installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "error: Python 3.10 or newer is needed (PYTHON=...)")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

$(OLDEST)/.installed: requirements.txt requirements-dev.txt requirements-oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c requirements-oldest.txt
	touch $@

demo: $(VENV)/.installed
	$(PY) create_data_splits.py --input_jsonl data/sample/pairs.jsonl --output_dir $(DEMO)/data_splits --test_size 12 --n_folds 3
	$(PY) train_darkir_cv.py --data_splits_dir $(DEMO)/data_splits --output_dir $(DEMO)/outputs_cv --resolution 96 \
	    --epochs 14 --batch_size 4 --lr 1e-3 --ema_decay 0.9 --preprocess strong_aug --lambda_vgg 0 --num_workers 0
	$(PY) evaluate_darkir_test.py --cv_dir $(DEMO)/outputs_cv --test_jsonl $(DEMO)/data_splits/test.jsonl \
	    --output_dir $(DEMO)/test_results --save_visuals
	@echo "Open $(DEMO)/test_results/report.html and $(DEMO)/outputs_cv/report.html in a browser."

test: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -n 2 --dist loadfile

# The oldest versions that requirements.txt allows, in an environment of their own; TESTS=FILES runs a part.
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile $(TESTS)

# 64 kills and 26 stops of training runs, which must end as if nothing had happened, and 18 faults from outside (loader
# processes, photos, packs, files, streams, locks, jobs), which must end as promised; nine minutes, not part of make test.
soak: $(VENV)/.installed-dev
	$(PY) tests/soak/soak.py
	$(PY) tests/soak/faults.py

# Tests that take too long for make test: kinds of what it tests already.
test-long: $(VENV)/.installed-dev
	$(PY) -m pytest -n 2 --dist loadfile -m long

# 1,000 bad and odd inputs to the scripts; minutes, not part of make test.
fuzz: $(VENV)/.installed-dev
	$(PY) tests/fuzz/fuzz.py

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format .

# Times, memory, errors and quality on the CPU, as Markdown for bench/RESULTS.md; eleven to thirty minutes on two idle cores.
bench: $(VENV)/.installed-dev
	$(PY) -m bench.bench_fivek
	$(PY) -m bench.bench_network
	$(PY) -m bench.bench_scaling
	$(PY) -m bench.bench_loader
	$(PY) -m bench.bench_losses
	$(PY) -m bench.bench_whole_photo --kept
	$(PY) -m bench.bench_architectures
	$(PY) -m bench.same_quality

# Both need a CUDA device, end with 2 without one, and leave Markdown and JSON in check_gpu/ and bench_gpu/. GPU_FLAGS=--tiny tries them
# out on a CPU. What must hold there, in four minutes; then times, memory and errors, in five.
GPU_FLAGS ?=
check-gpu: $(VENV)/.installed-dev
	$(PY) -m tests.gpu.check $(GPU_FLAGS)

bench-gpu: $(VENV)/.installed-dev
	$(PY) -m bench.bench_gpu $(GPU_FLAGS)

# How often the 95 % intervals hold the truth, simulated; two or three minutes.
coverage: $(VENV)/.installed
	$(PY) -m bench.coverage

# Freezing, layer decay, gradual unfreezing and mixing on pairs of your own: make ablation PAIRS=photos
# PAIRS: a pairs JSONL, or a folder that holds pairs.jsonl; each row with a `group`, its scene.
PAIRS ?= data/sample
ablation: $(VENV)/.installed
	$(PY) -m bench.finetune_ablation --pairs $(PAIRS) --output_dir outputs_ablation --pretrain_epochs 4 --epochs 10

# Jobs, arrays, requeues on a Slurm of its own; skipped with a reason where Slurm is not installed.
test-slurm: $(VENV)/.installed-dev
	timeout 600 $(PY) -m pytest -rs tests/slurm/check_jobs.py

# As root, on Debian or Ubuntu; nothing of it is started.
install-slurm:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge

# As root, on Debian: a browser for the tests of tests/browser, which are skipped without it.
install-chromium:
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver

clean:
	rm -rf $(VENV) $(OLDEST) $(DEMO)
