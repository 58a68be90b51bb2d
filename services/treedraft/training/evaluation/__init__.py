"""Evaluation: how often a drafter is right, how long its trees are, what it costs."""
