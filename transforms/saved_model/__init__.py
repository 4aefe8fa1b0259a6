"""SavedModels: what a signature takes and gives, loading it, and calling it."""
