"""Scoring: batches in, predictions aligned with their rows out."""
