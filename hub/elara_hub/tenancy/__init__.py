"""Teams, projects, members, quotas, workspaces: who belongs where and may do what."""
