"""Defines the flags of all commands, and reads command lines into options."""
