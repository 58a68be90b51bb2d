"""A coordinator to talk to: a running one, or a cluster for as long as it takes."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console

from treedraft.cli.terminal import progress_shown
from treedraft.client import Client, RetryPolicy
from treedraft.core.errors import InvalidRequestError, TreedraftError
from treedraft.environment import check_environment
from treedraft.inference.drafters import describe_drafter
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.settings import TlsSettings


def tls_settings(ca: str = "", certificate: str = "", key: str = "") -> TlsSettings:
    """Return certificates from options over environment.

    Raises:
        InvalidRequestError: reason UNKNOWN_SETTING, for a misspelt variable.
    """
    check_environment(os.environ, TlsSettings)
    given = {"ca": ca, "certificate": certificate, "key": key}
    return TlsSettings.model_validate({name: path for name, path in given.items() if path})


# Someone sits before the terminal: an address that is wrong is told of soon.
_POLICY = RetryPolicy(begin_seconds=2.0)


@asynccontextmanager
async def connected(endpoint: str, plan: ClusterPlan, console: Console) -> AsyncIterator[Client]:
    """Give a client of the endpoints or, if there are none, of a cluster of its own.

    Certificates and API key of the plan are for either.
    """
    if endpoint:
        endpoints = [part.strip() for part in endpoint.split(",") if part.strip()]
        async with Client(endpoints, tls=plan.tls, api_key=plan.api_key, policy=_POLICY) as client:
            yield client
        return
    async with started(plan, console) as cluster, connected(cluster.endpoint, plan, console) as own:
        say_drafter(plan, console)
        yield own


def say_drafter(plan: ClusterPlan, console: Console) -> None:
    """Print what drafts, which `auto` leaves open."""
    words = describe_drafter(plan.draft) if plan.num_drafters else "no drafts"
    console.print(words, style="dim", markup=False)


@asynccontextmanager
async def started(plan: ClusterPlan, console: Console) -> AsyncIterator[LocalCluster]:
    """Start a cluster with progress shown; stop it in the end.

    The logs of its processes are kept if an error of theirs ends it.
    """
    with progress_shown(console) as progress:
        cluster = await LocalCluster(plan, progress=progress).__aenter__()
    keeps_logs = False
    try:
        yield cluster
    except TreedraftError as error:
        keeps_logs = not isinstance(error, InvalidRequestError)
        if keeps_logs:
            console.print(f"logs are kept in {cluster.log_folder}", markup=False)
        raise
    finally:
        await cluster.stop(keeps_logs=keeps_logs)
