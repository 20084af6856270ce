"""Report of the study of instructed tasks."""
