"""Where studies lie, and how they are opened."""
