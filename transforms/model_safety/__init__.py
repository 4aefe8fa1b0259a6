"""What the ops of a model may do besides computing."""
