"""Devices, and who holds them: decisions (pure), the broker that stores them, and the channel to the nodes."""
