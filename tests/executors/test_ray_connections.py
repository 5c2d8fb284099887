"""How a program connects by `ray://`: what needs no cluster."""

import pytest

from sage_flow.executors.ray.cluster import try_again

DIED = "Initialization failure from server: RuntimeError: Starting Ray client server failed. See x.err for logs."


class Cluster:
    """Refuses with these messages, one after another, and then accepts."""

    def __init__(self, *messages):
        self.messages = list(messages)
        self.asked = 0

    def connect(self):
        self.asked += 1
        if self.messages:
            raise ConnectionAbortedError(self.messages.pop(0))


@pytest.mark.parametrize("times", [0, 1, 2])
def test_a_connection_is_tried_again_when_its_process_died_in_the_cluster(times):
    cluster = Cluster(*[DIED] * times)
    try_again(cluster.connect)
    assert cluster.asked == times + 1


def test_the_third_time_its_error_is_told():
    cluster = Cluster(*[DIED] * 3)
    with pytest.raises(ConnectionError, match="Starting Ray client server failed"):
        try_again(cluster.connect)
    assert cluster.asked == 3


def test_another_error_is_told_at_once():
    cluster = Cluster("no such cluster")
    with pytest.raises(ConnectionError, match="no such cluster"):
        try_again(cluster.connect)
    assert cluster.asked == 1
