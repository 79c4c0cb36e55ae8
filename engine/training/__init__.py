"""Rows -> trained weights: train.py tells a run from top to bottom."""
