"""The node agent: offers a machine's devices, starts a device server for each session, and keeps account of both."""
