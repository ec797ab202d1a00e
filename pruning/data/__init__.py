"""Data sets: found, read as ultralytics reads them, and looked at before training."""
