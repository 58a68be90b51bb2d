"""Measurements of the whole system, each result stamped with what it was made on."""
