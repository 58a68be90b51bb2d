"""Other engines on the same weights, prompts and machine, side by side with ours.

Each engine is an adapter of a few lines behind `protocol.Peer`, run in a process
of its own under a Python of its own. The modules `protocol`, `worker` and the
`…_peer` adapters run there: they import the standard library and the engine that
they are about, and nothing else.
"""
