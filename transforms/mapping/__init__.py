"""Maps the fields of rows to the inputs of the model, and parses the flags of this mapping."""
