"""TensorFlow's names of the dtypes that a row can hold. Imports nothing: the model process needs no Arrow."""

STRING = "string"
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = (*FLOATS, *INTEGERS, "bool", STRING)
