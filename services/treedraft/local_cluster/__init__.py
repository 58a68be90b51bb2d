"""All services on this machine, as processes of their own.

Used by `treedraft up`, `generate` and `demo`, by the bench and by tests that
kill processes. It knows how services are started and stopped and how cores are
shared out among them, and nothing of what they do.
"""
