"""Policies that learn: the warm start and the reinforcement learning loop. The mathematics is in :mod:`empg.core`."""
