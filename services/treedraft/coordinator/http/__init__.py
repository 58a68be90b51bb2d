"""The HTTP door: OpenAI's API, and what operators look at.

A thin skin over `coordinator.use_cases`. Bodies are checked by pydantic
(`bodies`), become queries (`queries`), and the events that answer these become
one JSON object (`answers`) or a stream of server-sent events (`streams`).
"""
