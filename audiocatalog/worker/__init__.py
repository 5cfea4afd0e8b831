"""The worker: a loop that claims waiting tracks, renews their leases, and yields them one by one."""

from audiocatalog.worker.loop import Worker

__all__ = ["Worker"]
