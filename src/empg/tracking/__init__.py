"""What people see in MLflow: live curves, and everything again from the results folder. Computes no number and is
never the only copy of one.
"""
