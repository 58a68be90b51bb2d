"""How models write tool calls, one small file per format.

A format reads calls out of a text as it comes (`reader`), and says as a grammar
what calls of given tools look like (`grammar`). `formats` finds the one that a
chat template speaks.
"""
