"""What Snakemake and DVC need: settings and sources of each job as files, data through DVC, times. Knows no number
about success.
"""
