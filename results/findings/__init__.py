"""A study's networks in their context: the front, who dominates whom, what was paid for it."""
