"""Queues behind descriptors: in one process, between processes, by RPC, on Ray."""
