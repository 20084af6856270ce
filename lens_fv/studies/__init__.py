"""Studies: complete runs from model to report."""
