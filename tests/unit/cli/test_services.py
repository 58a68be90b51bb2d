import pytest
from pydantic import ValidationError

from treedraft.cli.services import make_settings
from treedraft.core.errors import InvalidRequestError
from treedraft.target.settings import TargetSettings


def test_flags_win_over_the_environment_and_both_over_defaults(monkeypatch):
    monkeypatch.setenv("TREEDRAFT_TARGET__GRPC__PORT", "1")
    monkeypatch.setenv("TREEDRAFT_TARGET__GRPC__HOST", "0.0.0.0")
    settings = make_settings(TargetSettings, {"grpc.port": 2, "budget.max_nodes": "16"})
    assert (settings.grpc.port, settings.grpc.host) == (2, "0.0.0.0")
    assert settings.budget.max_nodes == 16
    assert settings.max_sessions == TargetSettings().max_sessions


def test_coordinators_come_with_commas():
    settings = make_settings(TargetSettings, {"worker.coordinators": "a:1,b:2"})
    assert settings.worker.coordinators == ("a:1", "b:2")


@pytest.mark.parametrize("name", ["budget.max_node", "prot", "grpc.port.x"])
def test_a_name_that_is_no_setting_is_refused(name):
    with pytest.raises(InvalidRequestError) as caught:
        make_settings(TargetSettings, {name: "1"})
    assert caught.value.reason == "UNKNOWN_SETTING"


def test_a_misspelt_variable_is_refused(monkeypatch):
    monkeypatch.setenv("TREEDRAFT_TARGET__GRPC__PROT", "1")
    with pytest.raises(InvalidRequestError, match="GRPC__PORT"):
        make_settings(TargetSettings, {})


def test_a_value_out_of_range_is_refused():
    with pytest.raises(ValidationError):
        make_settings(TargetSettings, {"grpc.port": 70000})
