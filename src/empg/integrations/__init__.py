"""EMPG and the environments inside other people's software: one module each, imported by nothing else here.

Each module imports the library that it serves and needs that library's extra (``pip install empg[trl]``); ``steps``
needs torch alone. This package itself imports nothing.
"""
