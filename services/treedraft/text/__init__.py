"""Text and tokens: tokenizers, chat templates, stop strings.

What the coordinator needs of a model without its weights, and what a target
needs to see a stop string. Built on the tokenizers library and jinja2; torch
and transformers are never imported here.
"""
