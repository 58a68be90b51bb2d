"""`treedraft coordinator | target | draft | autoscaler`: one service, until it is told to stop.

Flags win over environment variables, and whatever has no flag of its own can be
given as `--set group.name=value`.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import typer

from treedraft.cli import terminal
from treedraft.cli.checks import MAX_PORT, check_device, check_dtype, check_weights
from treedraft.core.errors import InvalidRequestError
from treedraft.environment import check_environment
from treedraft.settings import ServiceSettings

_Settings = TypeVar("_Settings", bound=ServiceSettings)

Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[
    int | None,
    typer.Option(min=0, max=MAX_PORT, help="Port to listen on; 0 lets the system choose."),
]
Advertise = Annotated[str, typer.Option(help="host:port that others dial, if it is another one.")]
Coordinators = Annotated[
    list[str] | None,
    typer.Option("--coordinator", help="host:port of a coordinator to announce itself to."),
]
ModelName = Annotated[str, typer.Option(help="Name that clients ask for.")]
Dtype = Annotated[
    str, typer.Option(help="float32, bfloat16, float16 or auto.", callback=check_dtype)
]
Weights = Annotated[
    str,
    typer.Option(
        help="How a CPU holds the weights: auto, float32, bfloat16 or int8.", callback=check_weights
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.", callback=check_device)]
Threads = Annotated[int | None, typer.Option(help="CPU threads of the model.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any setting, as budget.max_nodes=16."),
]


def coordinator(
    redis: Annotated[str, typer.Option(help="redis://… of the session store.")] = "",
    host: Host = "",
    port: Port = None,
    advertise: Advertise = "",
    http_host: Annotated[str, typer.Option(help="Address of OpenAI's API over HTTP.")] = "",
    http_port: Annotated[
        int | None, typer.Option(help="Port of OpenAI's API over HTTP; 0 lets the system choose.")
    ] = None,
    settings: Set = None,
) -> None:
    """Run the coordinator: the door for clients and workers."""
    with terminal.errors_shown():
        from treedraft.coordinator.__main__ import main
        from treedraft.coordinator.settings import CoordinatorSettings

        http = {"http.host": http_host, "http.port": http_port}
        given = _given({"redis": redis, **_grpc(host, port, advertise), **http}, settings)
        main(make_settings(CoordinatorSettings, given))


def target(
    model: Annotated[str, typer.Option(help="Hub id, folder, .gguf file or `default`.")] = "",
    model_name: ModelName = "",
    dtype: Dtype = "",
    weights: Weights = "",
    device: Device = "",
    threads: Threads = None,
    coordinators: Coordinators = None,
    host: Host = "",
    port: Port = None,
    advertise: Advertise = "",
    settings: Set = None,
) -> None:
    """Run a target: verifies token trees with the model that is served."""
    with terminal.errors_shown():
        from treedraft.rpc.process import leave
        from treedraft.target.__main__ import main
        from treedraft.target.settings import TargetSettings

        flags = _worker(model, model_name, dtype, weights, device, threads, coordinators)
        given = _given({**flags, **_grpc(host, port, advertise)}, settings)
        main(make_settings(TargetSettings, given))
        leave()


def draft(
    model: Annotated[
        str,
        typer.Option(
            help="Hub id, folder, .gguf file or name of a shipped drafter; empty or `lookup` is "
            "lookup alone."
        ),
    ] = "",
    model_name: ModelName = "",
    dtype: Dtype = "",
    weights: Weights = "",
    device: Device = "",
    threads: Threads = None,
    coordinators: Coordinators = None,
    host: Host = "",
    port: Port = None,
    advertise: Advertise = "",
    settings: Set = None,
) -> None:
    """Run a drafter: grows token trees for targets."""
    with terminal.errors_shown():
        from treedraft.draft.__main__ import main
        from treedraft.draft.settings import DraftSettings
        from treedraft.rpc.process import leave

        flags = _worker(model, model_name, dtype, weights, device, threads, coordinators)
        given = _given({**flags, **_grpc(host, port, advertise)}, settings)
        main(make_settings(DraftSettings, given))
        leave()


def autoscaler(
    coordinators: Coordinators = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Decide and say so, but change nothing.")
    ] = False,
    host: Host = "",
    port: Port = None,
    settings: Set = None,
) -> None:
    """Run the autoscaler: sizes target and draft pools on Kubernetes."""
    with terminal.errors_shown():
        try:
            from treedraft.autoscaler.__main__ import main
        except ModuleNotFoundError as error:
            raise InvalidRequestError(
                "the autoscaler needs the Kubernetes client: pip install 'treedraft[autoscaler]'",
                reason="MISSING_EXTRA",
            ) from error
        from treedraft.autoscaler.settings import AutoscalerSettings

        flags = {"coordinators": ",".join(coordinators or ()), "dry_run": dry_run or None}
        given = _given({**flags, **_grpc(host, port, "")}, settings)
        main(make_settings(AutoscalerSettings, given))


def make_settings(settings_class: type[_Settings], given: Mapping[str, Any]) -> _Settings:
    """Return settings from flags over environment over defaults.

    Args:
        settings_class: of the service.
        given: values by dotted name (`grpc.port`).

    Raises:
        InvalidRequestError: reason UNKNOWN_SETTING, for a variable or a name that is none.
        pydantic.ValidationError: a value is out of range.
    """
    check_environment(os.environ, settings_class)
    prefix = settings_class.model_config.get("env_prefix", "")
    names = {prefix + name.upper().replace(".", "__"): "" for name in given}
    check_environment(names, settings_class)
    nested: dict[str, Any] = {}
    for name, value in given.items():
        *groups, last = name.split(".")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return settings_class(**nested)


def _given(flags: Mapping[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    given = {name: value for name, value in flags.items() if value not in ("", None)}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise InvalidRequestError(f"--set {assignment}: give NAME=VALUE", field="set")
        given[name.strip().lower()] = value
    return given


def _grpc(host: str, port: int | None, advertise: str) -> dict[str, Any]:
    return {"grpc.host": host, "grpc.port": port, "grpc.advertise": advertise}


def _worker(
    model: str,
    model_name: str,
    dtype: str,
    weights: str,
    device: str,
    threads: int | None,
    coordinators: list[str] | None,
) -> dict[str, Any]:
    return {
        "model": model,
        "model_name": model_name,
        "dtype": dtype,
        "weights": weights,
        "device": device,
        "num_threads": threads,
        "worker.coordinators": ",".join(coordinators or ()),
    }
