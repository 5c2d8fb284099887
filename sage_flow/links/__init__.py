"""Connections between processes: endpoints, transports, listeners, links and the loops that drive them."""
