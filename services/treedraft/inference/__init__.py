"""Everything with tensors: weights, models, KV, attention, passes, sampling.

Used by the draft and target services. The coordinator and the autoscaler never
import this package, so they need no torch.
"""
