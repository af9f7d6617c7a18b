"""What happened and what was used: events and usage rows."""
