"""The kinds of targets, one file for each, and what several of them need."""
