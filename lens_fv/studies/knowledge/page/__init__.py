"""Report of the study of knowledge updates."""
