"""The draft service: grows token trees under the committed text of sessions.

It holds nothing that a `SessionOpen` could not rebuild, and nothing it sends
can change a token: a wrong guess costs speed alone.
"""
