"""Compares the predictions of two runs row by row."""
