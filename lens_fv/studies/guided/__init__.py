"""Study of guided fine-tuning."""
