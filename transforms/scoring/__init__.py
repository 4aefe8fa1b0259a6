"""Scores batches of rows and aligns the predictions with the rows."""
