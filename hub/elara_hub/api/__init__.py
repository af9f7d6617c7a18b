"""REST under /services/elara/api/v1, a module a resource. A route parses, authorises, calls, serialises."""
