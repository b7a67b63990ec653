"""The mathematics: pure functions of tensors that import torch alone. No configuration, no files, no policy.

``advantages`` turns rewards into advantages, ``entropy`` measures uncertainty, ``modulation`` is EMPG, which combines
both, and ``loss`` is the clipped loss that trains on the result.
"""
