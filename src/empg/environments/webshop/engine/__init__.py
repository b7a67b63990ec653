"""The shop as upstream plays it: catalogue, search, pages, goals, score. Knows nothing of how a catalogue is
generated.
"""
