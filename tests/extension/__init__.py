"""Tests of the JupyterLab extension."""
