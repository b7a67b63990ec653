"""Measurements. ``python -m benchmarks`` runs those of speed and memory; the other scripts say what they measure."""
