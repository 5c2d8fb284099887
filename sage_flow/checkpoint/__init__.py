"""What of a job outlives its processes, and how it goes on from there."""
