"""Turns the options of a run into a checked plan: sources, sample, feature mapping, output layout, memory."""
