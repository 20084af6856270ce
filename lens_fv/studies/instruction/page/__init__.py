"""The page on the study of instructed tasks."""
