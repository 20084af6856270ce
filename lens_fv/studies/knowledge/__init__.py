"""Is what a model reads of an entity learned, and what else moves?"""
