"""keyjoin's transforms: each one a file, named after its verb, with the pure functions that it wires."""
