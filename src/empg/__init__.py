"""Entropy-Modulated Policy Gradients (EMPG, arXiv 2509.09265) for LLM agents."""

__version__ = "0.1.0"
