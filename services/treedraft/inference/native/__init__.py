"""A decoder's pass on a CPU in one call, compiled for the machine it runs on.

`decoder.cpp` is the pass, `compiler` makes a library of it once per machine,
`decoder` is its face towards Python. Where there is no compiler, or the model
is of a kind that is not written out there, passes go through torch.
"""
