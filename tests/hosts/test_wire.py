"""The wire between hosts on a clock of its own, and two real namespaces."""

import json
import random
import socket
import subprocess
import sys

import pytest
from tests.hosts.network import command
from tests.hosts.wire import Wire

A, B = "10.77.0.1", "10.77.0.2"


def packet(destination, content=b"x"):
    head = bytes([0x45]) + bytes(15) + socket.inet_aton(destination)
    return head + content


class Bench:
    """A wire whose clock and deliveries a test sees."""

    def __init__(self):
        self.now = 100.0
        self.arrived = []
        self.due = []
        self.wire = Wire(
            lambda destination, content: self.arrived.append((self.now, destination, content)),
            lambda: self.now,
            lambda at, call: self.due.append((at, len(self.due), call)),
            random.Random(3),
        )

    def run(self):
        for at, _, call in sorted(self.due):
            self.now = at
            call()
        self.due.clear()


def test_packets_go_to_whom_they_are_for_at_once():
    bench = Bench()
    bench.wire.take(A, packet(B, b"hello"))
    assert bench.arrived == [(100.0, B, packet(B, b"hello"))]


def test_a_link_that_is_cut_swallows_one_direction_until_it_is_whole():
    bench = Bench()
    bench.wire.change(A, B, is_cut=True)
    bench.wire.take(A, packet(B))
    bench.wire.take(B, packet(A))
    assert [destination for _, destination, _ in bench.arrived] == [A]
    bench.wire.change(A, B, is_cut=False)
    bench.wire.take(A, packet(B))
    assert len(bench.arrived) == 2
    assert (bench.wire.num_packets, bench.wire.num_dropped) == (3, 1)


def test_a_delay_holds_for_its_link_and_no_packet_overtakes_another():
    bench = Bench()
    bench.wire.change(A, B, delay_seconds=0.02, jitter_seconds=0.01)
    for number in range(50):
        bench.wire.take(A, packet(B, bytes([number])))
        bench.now += 0.0001
    sent_until = bench.now
    bench.run()
    assert [content[-1] for _, _, content in bench.arrived] == list(range(50))
    times = [time for time, _, _ in bench.arrived]
    assert times == sorted(times)
    assert times[0] >= 100.02
    assert times[-1] <= sent_until + 0.03


def test_packets_are_lost_at_the_rate_that_was_asked_for():
    bench = Bench()
    bench.wire.change(A, B, loss=0.1)
    for _ in range(5000):
        bench.wire.take(A, packet(B))
    assert 400 <= bench.wire.num_dropped <= 600


@pytest.mark.parametrize("content", [b"", b"\x45short", bytes([0x60]) + bytes(60)])
def test_what_is_no_packet_of_ours_is_left_out(content):
    bench = Bench()
    bench.wire.take(A, content)
    assert (bench.arrived, bench.wire.num_packets) == ([], 0)


_PROBE = """
import json, socket, subprocess, sys, time
from tests.hosts.network import Network

SERVER = '''
import socket
listener = socket.create_server(("0.0.0.0", 7000))
print("listening", flush=True)
while True:
    with listener.accept()[0] as peer:
        while said := peer.recv(100):
            peer.sendall(said)
'''

def ask(connection):
    began = time.monotonic()
    connection.sendall(b"x")
    connection.recv(1)
    return time.monotonic() - began

with Network(["far"]) as network:
    server = subprocess.Popen(
        network.on("far", sys.executable, "-c", SERVER), stdout=subprocess.PIPE
    )
    server.stdout.readline()
    with socket.create_connection((network.addresses["far"], 7000), timeout=30) as connection:
        network.change(["clients"], ["far"], delay_seconds=0.1)
        slow = ask(connection)
        network.cut(["clients"], ["far"])
        connection.settimeout(0.5)
        try:
            ask(connection)
            was_cut = False
        except TimeoutError:
            was_cut = True
        network.heal()
        connection.settimeout(30)
        late = connection.recv(1).decode()
    server.kill()
    server.wait()
print(json.dumps({"slow": slow, "was_cut": was_cut, "late": late}))
"""


def test_two_hosts_are_as_far_apart_as_is_said_and_a_cut_only_holds_things_up():
    try:
        inside = command(sys.executable, "-c", _PROBE)
    except RuntimeError as error:
        pytest.skip(f"no hosts can be made here: {error}")
    done = subprocess.run(inside, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["slow"] >= 0.2
    assert found["was_cut"]
    assert found["late"] == "x"  # what was sent into the cut arrives: TCP sends it again
