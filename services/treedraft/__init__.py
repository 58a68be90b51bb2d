"""treedraft: tree-structured speculative decoding as separate services.

A small draft model grows a tree of likely continuations, the target model
checks the whole tree in one pass and keeps what it would have said anyway.
"""

__version__ = "0.1.0"
