"""The exchange where a pass takes a millisecond, on a machine without a GPU."""
