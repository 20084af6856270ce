"""The study's page: statistics over relations, tables, figures and text."""
