"""The session store: one protocol, kept in Redis or in this process."""
