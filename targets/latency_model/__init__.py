"""Latency without a measurement: the graph of convolutions, latency tables, and alignment."""
