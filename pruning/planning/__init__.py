"""Which channels and blocks stay: how they are judged, and plans for a threshold or a latency."""
