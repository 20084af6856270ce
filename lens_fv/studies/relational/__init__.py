"""The claims about fine-tuned and composite function vectors, put to the test on every built-in relation."""
