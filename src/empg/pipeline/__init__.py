"""What Snakemake and DVC need: each job's settings and sources as files, data sets through DVC, commands and times.
Never reads a number about success.
"""
