"""Sizes the pools of targets and drafters, each by its own signals.

What is decided is a pure function of what was seen (`policy`); what is seen
comes from the coordinators (`observation`), and what is done goes to Kubernetes
(`kubernetes`). `controller` joins the three, for one leader among the replicas
(`leader`). The simulation runs the same policy against made-up traffic.
"""
