"""Shared foundations: artefacts and their provenance, the result store, files, intervals, display and progress bars."""
