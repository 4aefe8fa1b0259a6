"""The job: its graph, local waves, remote runners, Dataflow, stopping early."""
