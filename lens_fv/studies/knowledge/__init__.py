"""Study of knowledge updates: does distilling a definition teach the facts, and what else changes?"""
