"""Conformance tests: what a family of detectors, or an importance, must do to be searched. Needs pytest."""

from prunetune.pruning.testing.family import Family, FamilyTestCase
from prunetune.pruning.testing.judge import JudgeTestCase

__all__ = ["Family", "FamilyTestCase", "JudgeTestCase"]
