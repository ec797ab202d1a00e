"""Export bundles: written, described, and checked."""
