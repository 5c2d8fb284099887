"""What a job tells to programs that watch it: one table of metrics, and the exporters that read it."""
