"""A study: its description, how that may change, its database, and its limits."""
