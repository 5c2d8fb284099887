"""The cluster that other tests use."""

import ray
from ray_cluster import SECOND


def _where():
    return ray.get_runtime_context().get_node_id()


def test_it_has_two_nodes_that_can_be_told_apart(ray_cluster):
    assert ray.get_runtime_context().get_node_id() == ray_cluster.head_id
    where = ray.remote(num_cpus=0)(_where)
    head, second = ray_cluster.on(ray_cluster.head_id), ray_cluster.on(ray_cluster.second_id)
    places = [where.options(**head), where.options(**second), where.options(resources={SECOND: 0.001})]
    assert ray.get([place.remote() for place in places]) == [
        ray_cluster.head_id,
        ray_cluster.second_id,
        ray_cluster.second_id,
    ]
