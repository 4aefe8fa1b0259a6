"""Maps the fields of rows to the inputs of the model, and reads the flags that do so."""
