"""Predictions held against references: metrics, reports, pictures."""
