"""How a network hangs together: its layers and channels, and which of them can go."""
