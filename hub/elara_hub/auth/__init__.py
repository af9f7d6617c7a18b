"""Who is asking: hub tokens, browser sessions, the hub itself. What they may do is `tenancy.permissions`."""
