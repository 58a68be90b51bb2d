from pathlib import Path

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from treedraft.settings import (
    GrpcSettings,
    ServiceSettings,
    TelemetrySettings,
    TlsSettings,
    WorkerSettings,
    cache_dir,
)


class SampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="TREEDRAFT_SAMPLE__")

    model: str = "default"
    grpc: GrpcSettings = GrpcSettings()
    tls: TlsSettings = Field(default_factory=TlsSettings)
    telemetry: TelemetrySettings = TelemetrySettings()
    worker: WorkerSettings = WorkerSettings()


def test_nested_settings_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("TREEDRAFT_SAMPLE__GRPC__PORT", "50051")
    monkeypatch.setenv("TREEDRAFT_SAMPLE__TELEMETRY__LOG_FORMAT", "json")
    settings = SampleSettings()
    assert settings.grpc.port == 50051
    assert settings.telemetry.log_format == "json"
    assert settings.grpc.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a:1", ("a:1",)), ("a:1, b:2,", ("a:1", "b:2")), ("", ())],
)
def test_lists_are_separated_by_commas(monkeypatch, text, expected):
    monkeypatch.setenv("TREEDRAFT_SAMPLE__WORKER__COORDINATORS", text)
    assert SampleSettings().worker.coordinators == expected


def test_lists_may_be_given_in_code():
    assert WorkerSettings(coordinators=("a:1", "b:2")).coordinators == ("a:1", "b:2")


def test_settings_are_frozen():
    settings = SampleSettings()
    with pytest.raises(ValidationError):
        settings.model = "other"
    with pytest.raises(ValidationError):
        settings.grpc.port = 1


def test_values_out_of_range_are_refused(monkeypatch):
    monkeypatch.setenv("TREEDRAFT_SAMPLE__TELEMETRY__SAMPLE_RATIO", "1.5")
    with pytest.raises(ValidationError, match="sample_ratio"):
        SampleSettings()


def test_unknown_names_in_code_are_refused():
    with pytest.raises(ValidationError, match="prot"):
        GrpcSettings.model_validate({"prot": 1})


def test_every_setting_says_what_it_is():
    for group in (GrpcSettings, TelemetrySettings, WorkerSettings):
        for name, field in group.model_fields.items():
            assert field.description, f"{group.__name__}.{name}"


def test_a_worker_without_a_name_gets_a_new_one_each_time():
    assert WorkerSettings(worker_id="w1").resolve_id("draft") == "w1"
    first, second = (WorkerSettings().resolve_id("draft") for _ in range(2))
    assert "-draft-" in first
    assert first != second


def test_cache_folder_follows_the_environment():
    assert cache_dir({"TREEDRAFT_CACHE": "/a", "XDG_CACHE_HOME": "/b"}) == Path("/a")
    assert cache_dir({"XDG_CACHE_HOME": "/b"}) == Path("/b/treedraft")
    home = Path("~/.cache/treedraft").expanduser()
    assert cache_dir({"XDG_CACHE_HOME": "relative"}) == home
    assert cache_dir({}) == home
