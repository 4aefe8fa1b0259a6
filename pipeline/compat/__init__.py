"""Uses of what Beam, TensorFlow and other libraries do not document."""
