"""The shells that drive the runtime: threads, processes, simulation. They share one worker loop."""
