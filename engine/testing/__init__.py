"""Trained models and test photos -> scores, comparison, pictures."""
