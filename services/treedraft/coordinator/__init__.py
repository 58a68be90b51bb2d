"""The coordinator: the door to the models and the owner of sessions.

It turns requests into sessions, places them on targets with drafters, relays
their tokens and keeps the session log. It holds no weights and no tensors.
"""
