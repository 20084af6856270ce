"""Which model, seen in one uniform way?"""
