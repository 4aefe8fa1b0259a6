"""Holds keyjoin's Beam transforms, one in each file, with the pure functions that the transform wires."""
