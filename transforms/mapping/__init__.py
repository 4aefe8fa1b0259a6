"""The feature mapping: which fields of a row feed which input of a model."""
