"""The end of a job, as a file sink sees it."""


def commit(sink):
    """Prepare what was written, and publish it."""
    handle = sink.prepare(0)
    if handle is not None:
        sink.commit(handle)
