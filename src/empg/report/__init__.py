"""What people read: the report's page, figures, trajectory pages and published Markdown. Shows the tables of
:mod:`empg.analysis` and never computes a number.
"""
