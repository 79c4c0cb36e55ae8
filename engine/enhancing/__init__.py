"""Trained models and photos -> restored photos at full size."""
