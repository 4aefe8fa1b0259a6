"""Detects the ops of a model that do more than compute, before the model is loaded."""
