"""Traffic of days against pools of pods, in minutes: what a policy would have done.

A discrete-event simulation. How long a pass takes and what a tree brings comes
from a measured report of a drafter; who decides on sizes is the autoscaler's own
policy or one that it is compared with. Requests arrive, wait, prefill, decode
beside others, and end; pods start slowly, drain, and fail.
"""
