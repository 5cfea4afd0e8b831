"""The benchmark of the lifecycle; run it as ``python -m benchmarks.lifecycle``."""
