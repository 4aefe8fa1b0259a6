"""Prepares and runs the model: process, sha256, copy for workers, Keras export, and adding a key."""
