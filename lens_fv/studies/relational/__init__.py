"""A test of the claims about fine-tuned and composite function vectors on every built-in relation."""
