"""Numbers computed again from the rows behind them. Reads results and never changes them."""
