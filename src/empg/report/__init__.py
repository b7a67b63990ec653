"""What people read: page, figures, trajectory pages and published Markdown. Draws the tables of :mod:`empg.analysis`
and never computes a number.
"""
