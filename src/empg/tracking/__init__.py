"""The study in MLflow: live curves while it runs, and every run rebuilt from the results folder. Never computes a
number about success and never holds the only copy of one.
"""
