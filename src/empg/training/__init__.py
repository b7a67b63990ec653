"""Policies that learn: the warm start and the reinforcement learning loop. Start reading at :mod:`empg.training.rl`.

This package brings formulas and sampling together. It defines neither: formulas live in :mod:`empg.core`, sampling in
:mod:`empg.rollouts`.
"""
