"""Batches -> changed weights: update.py is one optimizer update, loop.py the updates of a run, execution.py how they are run."""
