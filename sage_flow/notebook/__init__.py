"""What a notebook shows of environments, streams, results and handles: HTML without scripts and without anything from
the network."""
