"""Passes of Llama-like models on a CUDA device, in few and fused kernels of our own.

`layout` says what every row reads, `plans` how a product is cut, `decoder` runs the
pass, `graphs` replays it. The kernels are in Triton; nothing here imports it before
a model is loaded that wants it.
"""
