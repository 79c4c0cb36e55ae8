"""A finished cross-validation -> one file to ship, with a model card."""
