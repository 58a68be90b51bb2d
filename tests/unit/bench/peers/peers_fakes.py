"""Results of comparisons that never ran."""

from treedraft.bench.peers.plan import BFLOAT16, FLOAT32, LOOKUP, PLAIN, SPECULATIVE, PeersPlan, Row
from treedraft.bench.peers.result import Outcome, PeersResult, Reply
from treedraft.inference.stamp import Stamp

STAMP = Stamp(
    time="2026-01-02T03:04:05+00:00",
    commit="abc123",
    treedraft="0.1.0",
    python="3.11.7",
    system="Linux x86_64",
    processor="A processor",
    num_cores=2,
    memory_gib=8.0,
    load_before=0.25,
    packages={"torch": "2.13.0"},
)
TEXT = (1, 2, 3, 4)
OTHER_TEXT = (1, 2, 9, 4)


def outcome(row, *seconds, text=TEXT, num_passes=None):
    return Outcome(row, tuple((Reply(one, text, num_passes),) for one in seconds))


def make_result():
    own, fast = Row("treedraft", FLOAT32, PLAIN), Row("treedraft", FLOAT32, SPECULATIVE)
    peer, lookup = Row("peer", FLOAT32, PLAIN), Row("peer", FLOAT32, LOOKUP, note="a | note")
    outcomes = (
        Outcome(Row("other", BFLOAT16, PLAIN), failure="not installed: no module named other"),
        outcome(own, 1.0, 2.0, 4.0),
        outcome(fast, 1.0, 1.0, 1.0, num_passes=2),
        outcome(peer, 0.5, 0.5, 0.5),
        outcome(lookup, 1.0, 1.0, 1.0, text=OTHER_TEXT, num_passes=4),
    )
    plan = PeersPlan(target="toy", num_tokens=4, rows=tuple(one.row for one in outcomes))
    return PeersResult(STAMP, plan, 2, outcomes, {"peer": "1.2"})
