"""Experiment tracking: MLflow behind the hub's sign-in, one MLflow workspace for each project.

`python -m elara_hub.tracking` runs one process: MLflow's own server application with our gate before it. The gate
asks the service what a token may reach, so that MLflow never decides who somebody is; MLflow's own roles decide what
a member may do.
"""
