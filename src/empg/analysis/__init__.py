"""The numbers of a study: reads its results folder and makes tables. Never writes HTML and never talks to MLflow."""
