"""How long a pass takes, beside what no pass of this machine could be faster than."""
