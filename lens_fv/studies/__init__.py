"""Whole runs: what a command does from end to end."""
