"""What fine-tuning does to instructed tasks, from a mixture that teaches them to verdicts on those that are lost."""
