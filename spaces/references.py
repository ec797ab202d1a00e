"""The networks that a study's own detector gives to compare with."""

from __future__ import annotations

REFERENCES = ("dense", "half-width", "quarter-width")
"""In the order in which they are shown. Budgets and latencies can refer to them."""
