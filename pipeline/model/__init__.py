"""The model of a run: its process, its fingerprint, its copy for workers, Keras export, adding a key."""
