"""Runs a job: its graph, waves on this machine, remote runners, Dataflow, and the early stop at an error limit."""
