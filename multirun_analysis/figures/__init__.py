"""One function per figure: a DataFrame in, a matplotlib Figure out. No MLflow, no files."""
