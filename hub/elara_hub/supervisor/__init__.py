"""`elara up`: every part of Elara on one machine, as processes under one supervisor."""
