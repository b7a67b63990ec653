"""Policies that learn: the warm start and the reinforcement learning loop. Start reading at :mod:`empg.training.rl`.

Formulas live in :mod:`empg.core`, sampling in :mod:`empg.rollouts`; here is what brings both together.
"""
