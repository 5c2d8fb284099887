"""What the engine costs, as ratios to hand-written Python that calls the same functions: `python -m benchmarks`."""
