"""Discrete rules and, beside each, its SDE, its clock and its scaling rule: one file an optimiser."""
