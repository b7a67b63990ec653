"""Results as tables: what a study found, as numbers. Reads result folders and never writes HTML or talks to MLflow."""
