"""Names of a study's user attributes that several modules know."""

TARGETS = "targets"
"""Its targets, and what was measured once on each; empty before that."""

FINISHED = "finished"
"""How many trials there were when its results were last written; None when they must be written anew."""
