"""How fast a study's networks are: its targets, what is measured and predicted on them, and networks as they ship."""
