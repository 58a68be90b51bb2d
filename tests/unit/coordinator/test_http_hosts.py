import pytest

from treedraft.coordinator.http.hosts import hosts_of
from treedraft.core.errors import PermissionDeniedError


def answers(hosts, name) -> bool:
    try:
        hosts.check(name)
    except PermissionDeniedError:
        return False
    return True


def hosts(*allowed, bound_to="127.0.0.1", advertised="", is_guarded=False):
    return hosts_of(allowed, bound_to=bound_to, advertised=advertised, is_guarded=is_guarded)


LOCAL = [b"localhost", b"localhost:8000", b"LOCALHOST:1", b"127.0.0.1:80", b"[::1]:8000", b"[::1]"]
LOCAL += [b"treedraft.localhost:8000", None]
FOREIGN = [b"evil.example", b"evil.example:8000", b"localhost.evil.example", b"127.0.0.1.evil", b""]
FOREIGN += [b"localhost@evil.example", b"[::2]", b"\xff"]


@pytest.mark.parametrize("bound_to", ["127.0.0.1", "127.0.0.9", "localhost", "::1", "[::1]"])
def test_a_door_of_this_machine_alone_answers_to_its_names(bound_to):
    open_door = hosts(bound_to=bound_to, advertised="box.example:8000")
    for name in [*LOCAL, b"box.example", bound_to.encode()]:
        assert answers(open_door, name), name
    for name in FOREIGN:
        assert not answers(open_door, name), name


@pytest.mark.parametrize(
    "door", [{"is_guarded": True}, {"bound_to": "0.0.0.0"}, {"bound_to": "::"}, {"bound_to": "box"}]
)
def test_other_doors_answer_to_all_names(door):
    for name in [*LOCAL, *FOREIGN, b"treedraft.default.svc.cluster.local:8000"]:
        assert answers(hosts(**door), name)


def test_names_can_be_given():
    given = hosts("door.example", "*.svc.cluster.local:8000", is_guarded=True)
    for name in (b"door.example:443", b"treedraft.default.svc.cluster.local"):
        assert answers(given, name)
    for name in (b"localhost", b"svc.cluster.local", b"x.door.example"):
        assert not answers(given, name)
    assert answers(hosts("*"), b"evil.example")
