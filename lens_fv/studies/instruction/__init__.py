"""Study of instructed tasks under fine-tuning, from teaching a mixture of tasks to verdicts on the lost ones."""
