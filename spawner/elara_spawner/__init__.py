"""Workspaces: what one is, and the backends that start one."""
