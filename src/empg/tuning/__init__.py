"""Searches for settings on the panel ``tune``, by Optuna."""
