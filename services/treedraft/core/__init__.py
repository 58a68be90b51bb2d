"""The shared vocabulary: trees, sampling, noise, sessions, errors.

Standard library and numpy only. Nothing here knows of gRPC, torch, Redis or a
clock, so every rule of the domain can be read and tested on its own.
"""
