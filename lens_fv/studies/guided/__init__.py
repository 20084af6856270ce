"""Guided fine-tuning, put to the test."""
