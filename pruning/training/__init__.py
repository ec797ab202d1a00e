"""Training and validation by ultralytics' own loops, with what pruning needs done differently."""
