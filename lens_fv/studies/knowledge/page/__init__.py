"""The study of knowledge updates as a page."""
