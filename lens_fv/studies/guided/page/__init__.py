"""Report of the study of guided fine-tuning."""
