"""The audit: recomputes recorded numbers from the rows behind them and checks hashes. Never changes a result."""
