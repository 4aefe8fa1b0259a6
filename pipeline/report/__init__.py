"""Reports what a finished run predicted: its distributions, and how they differ from those of another run."""
