"""ultralytics' detectors: loaded, saved, exported, and made quiet."""
