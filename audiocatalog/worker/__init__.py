"""The worker's loop: it claims waiting tracks, keeps their leases alive, and gives them one by one."""

from audiocatalog.worker.loop import Worker

__all__ = ["Worker"]
