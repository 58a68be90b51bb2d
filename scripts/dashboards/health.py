"""What will break next?"""

from dashboards.grafana import Dashboard, Panel
from dashboards.promql import AT_TARGET, KV_USE, OURS, rate
from treedraft.telemetry import names as n

HEALTH = Dashboard(
    "health",
    "treedraft: what will break next?",
    "Memory, queues, links. The alerts look at the same numbers; docs/runbook.md says what to do.",
    (
        Panel(
            "Targets ready",
            "As the coordinators see them; 0 serves nobody.",
            "short",
            [(f'max({n.METRIC_WORKERS}{{worker_role="target", state="ready"}})', "targets")],
            "stat",
        ),
        Panel(
            "Drafters ready",
            "0 costs speed alone.",
            "short",
            [(f'max({n.METRIC_WORKERS}{{worker_role="draft", state="ready"}})', "drafters")],
            "stat",
        ),
        Panel(
            "KV in use, fullest target",
            "Near 100 % sessions wait, then lose their pages to others.",
            "percentunit",
            [(f"max({KV_USE.replace(' / ', AT_TARGET + ' / ', 1)})", "in use")],
            "stat",
        ),
        Panel("KV in use", "By worker.", "percentunit", [(KV_USE, "{{role}} {{instance}}")]),
        Panel(
            "Sessions waiting",
            "At the door and at the targets.",
            "short",
            [(f"sum by (role) ({n.METRIC_SESSIONS_WAITING})", "{{role}}")],
        ),
        Panel(
            "Sessions that lost their KV",
            "Preempted a second; they are prefilled again.",
            "short",
            [(rate(n.METRIC_PREEMPTIONS), "preempted")],
        ),
        Panel(
            "Sessions that moved",
            "Fail-overs a second, by why the last target was left.",
            "short",
            [(rate(n.METRIC_FAILOVERS, "", "reason"), "{{reason}}")],
        ),
        Panel(
            "Broken links",
            "A second, by peer and reason.",
            "short",
            [
                (
                    rate(n.METRIC_LINK_FAILURES, "", "role, peer, reason"),
                    "{{role}} to {{peer}}: {{reason}}",
                )
            ],
        ),
        Panel(
            "Broken rules and a missing store",
            "Frames of drafters that no tree can be; refreshes of the register that failed.",
            "short",
            [
                (rate(n.METRIC_GROWTHS_REFUSED, "", "reason"), "drafter: {{reason}}"),
                (rate(n.METRIC_UPKEEP_FAILURES), "store"),
            ],
        ),
        Panel(
            "Memory",
            "Resident, by process.",
            "bytes",
            [(f"process_resident_memory_bytes{OURS}", "{{role}} {{instance}}")],
        ),
        Panel(
            "Open files",
            "Share of the limit.",
            "percentunit",
            [(f"process_open_fds{OURS} / process_max_fds", "{{role}} {{instance}}")],
        ),
        Panel(
            "Replicas",
            "Decided on by the autoscaler, and workers that report.",
            "short",
            [
                (f"max by (workload) ({n.SCALING_WANTED})", "{{workload}} wanted"),
                (f"max by (workload) ({n.SCALING_READY})", "{{workload}} ready"),
            ],
        ),
        Panel(
            "Scaling",
            "Sizes changed, and decisions that failed, a second.",
            "short",
            [
                (rate(n.SCALING_CHANGES, "", "workload, direction"), "{{workload}} {{direction}}"),
                (rate(n.SCALING_FAILURES, "", "reason"), "failed: {{reason}}"),
            ],
        ),
        Panel(
            "Versions",
            "More than one for long is an upgrade that got stuck.",
            "short",
            [(f"count by (role, version) ({n.METRIC_BUILD})", "{{role}} {{version}}")],
        ),
    ),
)
