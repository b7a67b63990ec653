"""The mathematics: tensors in, tensors out; imports torch only.

``modulation`` is EMPG, ``advantages`` what it modulates, ``entropy`` what it reads, ``loss`` what consumes the result.
"""
