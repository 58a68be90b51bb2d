import os

import pytest
from test_settings import SampleSettings

from treedraft.core.errors import InvalidRequestError
from treedraft.environment import check_environment, setting_variables
from treedraft.settings import TlsSettings


def test_a_misspelt_variable_is_refused_with_the_closest_name():
    with pytest.raises(InvalidRequestError, match="TREEDRAFT_SAMPLE__GRPC__PORT") as caught:
        check_environment({"TREEDRAFT_SAMPLE__GRPC__PROT": "1"}, SampleSettings)
    assert caught.value.reason == "UNKNOWN_SETTING"
    assert caught.value.field == "TREEDRAFT_SAMPLE__GRPC__PROT"


def test_a_variable_like_nothing_else_is_refused_without_a_guess():
    with pytest.raises(InvalidRequestError) as caught:
        check_environment({"TREEDRAFT_SAMPLE__QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ": "1"}, SampleSettings)
    assert "did you mean" not in caught.value.message


def test_variables_that_are_read_or_belong_to_others_pass():
    check_environment(
        {
            "PATH": "/bin",
            "TREEDRAFT_CACHE": "/tmp",
            "TREEDRAFT_OTHER__X": "1",
            "TREEDRAFT_SAMPLE_SERVICE_HOST": "10.0.0.1",
            "TREEDRAFT_SAMPLE__GRPC": "{}",
            "TREEDRAFT_SAMPLE__MODEL": "m",
            "treedraft_sample__worker__worker_id": "w",
        },
        SampleSettings,
    )


def test_the_shared_group_is_read_by_every_service_and_may_be_given_to_one(monkeypatch):
    monkeypatch.setenv("TREEDRAFT_TLS__CA", "ca.pem")
    monkeypatch.setenv("TREEDRAFT_TLS__SERVICE_NAMES", "target, draft")
    monkeypatch.setenv("TREEDRAFT_SAMPLE__TLS__CERTIFICATE", "own.pem")
    tls = SampleSettings().tls
    assert (tls.ca, tls.certificate) == ("ca.pem", "own.pem")
    assert tls.service_names == ("target", "draft")
    assert TlsSettings().certificate == ""
    check_environment(os.environ, SampleSettings)


def test_a_misspelt_variable_of_the_shared_group_is_refused():
    with pytest.raises(InvalidRequestError, match="TREEDRAFT_TLS__CERTIFICATE"):
        check_environment({"TREEDRAFT_TLS__CERTIFICAT": "x"}, SampleSettings)


def test_variables_of_a_group_give_it_back(monkeypatch):
    tls = TlsSettings(ca="ca.pem", require_client_certificate=True, service_names=("a", "b"))
    assert setting_variables(TlsSettings()) == {}
    for name, value in setting_variables(tls).items():
        monkeypatch.setenv(name, value)
    assert TlsSettings() == tls
