"""Options that several commands share, each with its words in one place."""

from typing import Annotated

import typer

from treedraft.cli.checks import (
    check_device,
    check_dtype,
    check_endpoint,
    check_weights,
)
from treedraft.local_cluster.plan import API_KEY_VARIABLE

Target = Annotated[
    str,
    typer.Option(
        help="Target model: hub id, folder or .gguf file; `default` fetches SmolLM2-135M-Instruct.",
        envvar="TREEDRAFT_TARGET__MODEL",
        rich_help_panel="Own cluster",
    ),
]
Draft = Annotated[
    str,
    typer.Option(
        help="Draft model with the target's tokenizer: hub id, folder or .gguf file. `auto` takes "
        "the one that is shipped for the target, if there is one; `lookup` guesses that the text "
        "repeats itself.",
        envvar="TREEDRAFT_DRAFT__MODEL",
        rich_help_panel="Own cluster",
    ),
]
Redis = Annotated[
    str,
    typer.Option(
        help="redis://… of the session store; empty keeps sessions in the coordinator.",
        envvar="TREEDRAFT_COORDINATOR__REDIS",
        rich_help_panel="Own cluster",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="How a CPU holds the target's weights: auto, float32, bfloat16 or int8; auto loses "
        "nothing.",
        callback=check_weights,
        rich_help_panel="Own cluster",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="What the target computes in: float32, bfloat16, float16 or auto; empty leaves it to "
        "the service.",
        callback=check_dtype,
        rich_help_panel="Own cluster",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, cuda:1 or auto; empty leaves it to the services.",
        callback=check_device,
        rich_help_panel="Own cluster",
    ),
]
DraftDevice = Annotated[
    str,
    typer.Option(
        help="What the drafter runs on, where that is not what the target does.",
        callback=check_device,
        rich_help_panel="Own cluster",
    ),
]
Endpoint = Annotated[
    str,
    typer.Option(
        help="host:port of a running coordinator, or several with commas between them; without it "
        "a cluster is started for the command and stopped after it.",
        envvar="TREEDRAFT_ENDPOINT",
        callback=check_endpoint,
    ),
]
RunningEndpoint = Annotated[
    str,
    typer.Option(
        help="host:port of a running coordinator.",
        envvar="TREEDRAFT_ENDPOINT",
        callback=check_endpoint,
    ),
]
ApiKey = Annotated[
    str,
    typer.Option(
        help="Says to the coordinator for which tenant you ask; the variable keeps it out of the "
        "list of processes.",
        envvar=API_KEY_VARIABLE,
        rich_help_panel="Security",
    ),
]
Ca = Annotated[
    str,
    typer.Option(
        help="PEM file of the authority of the coordinator's certificate; given, TLS is spoken.",
        envvar="TREEDRAFT_TLS__CA",
        rich_help_panel="Security",
    ),
]
Cert = Annotated[
    str,
    typer.Option(
        help="PEM file of your own certificate, where the coordinator demands one.",
        envvar="TREEDRAFT_TLS__CERTIFICATE",
        rich_help_panel="Security",
    ),
]
Key = Annotated[
    str,
    typer.Option(
        help="PEM file of its private key.",
        envvar="TREEDRAFT_TLS__KEY",
        rich_help_panel="Security",
    ),
]
