"""`elara admin check`: what of a deployment works, what does not, and what to do about it."""
