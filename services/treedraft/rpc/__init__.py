"""gRPC: servers, channels, clients, errors, and the border to the wire.

Everything that knows how gRPC works lives here, and the generated messages of
`treedraft.v1` go no further than this package and the `service` modules: on
the inside there are only the frozen values of `treedraft.core`.
"""
