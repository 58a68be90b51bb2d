"""What is refused before anything starts: options that cannot be meant."""

import re

import typer

MAX_PORT = 65535
DTYPES = ("float32", "bfloat16", "float16", "auto")
WEIGHTS = ("auto", "float32", "bfloat16", "int8")
_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
_OWN_CLUSTER = ("target", "draft", "redis", "dtype", "weights", "device")


def check_dtype(value: str) -> str:
    """Return what a model computes in, or refuse it."""
    return _one_of(DTYPES, value)


def check_weights(value: str) -> str:
    """Return how weights are held, or refuse it."""
    return _one_of(WEIGHTS, value)


def check_device(value: str) -> str:
    """Return the name of a device, or refuse what is none."""
    if value and not _DEVICE.fullmatch(value):
        raise typer.BadParameter(f"{value!r} is no device; give cpu, cuda, cuda:1 or auto")
    return value


def check_endpoint(value: str) -> str:
    """Return `host:port`, or several with commas between them, or refuse what is not that."""
    for part in value.split(",") if value else ():
        host, _, port = part.strip().rpartition(":")
        if "://" in part:
            raise typer.BadParameter(f"{part!r} is an address of the web; give host:port of gRPC")
        if not (host and port.isdecimal() and 0 < int(port) <= MAX_PORT):
            raise typer.BadParameter(
                f"{part!r} names no port; give host:port, as in 127.0.0.1:50050"
            )
    return value


def refuse_both(context: typer.Context, endpoint: str) -> None:
    """Refuse a running cluster together with options of one that is to be started."""
    given = [
        name
        for name in _OWN_CLUSTER
        if str(getattr(context.get_parameter_source(name), "name", "")) == "COMMANDLINE"
    ]
    if endpoint and given:
        raise typer.BadParameter(f"--endpoint names a running cluster; --{given[0]} starts one")


def _one_of(known: tuple[str, ...], value: str) -> str:
    if value and value not in known:
        raise typer.BadParameter(f"{value!r} is none of {', '.join(known)}")
    return value
