"""Storage: files, object stores, globs, sources, compression."""
