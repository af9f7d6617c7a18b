"""Accounts for small installations: names and passwords of our own, on the hub's login form."""
