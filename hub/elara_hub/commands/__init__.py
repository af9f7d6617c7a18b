"""Sub-commands of `elara` for administrators: teams, projects, members, quotas, leases, nodes."""
