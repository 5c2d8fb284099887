"""Label and identity; clone and share; the schedules in which handles used to lose each other."""

import copy
import json
import pickle
import queue
import re

import pytest
from queue_peer import (
    Failed,
    clone_there,
    clone_to_json,
    facts_there,
    get_there,
    put_over_json,
    put_there,
    stranger_there,
)

from sage_flow.channels import BaseQueueDescriptor, QueueDescriptor, resolve_descriptor
from sage_flow.errors import ChannelNotReachable


def test_the_base_class_has_two_names():
    assert QueueDescriptor is BaseQueueDescriptor


def test_a_new_descriptor_is_labelled_by_its_type_and_identified_by_its_label(kind):
    one, other = kind.make(), kind.make()
    assert re.fullmatch(rf"{kind.queue_type}_[0-9a-f]{{16}}", one.queue_id)
    assert one.channel_id == one.queue_id
    assert one != other
    assert kind.make(queue_id="orders").channel_id == "orders"
    assert one.scope == "cluster"


def test_nothing_is_made_before_the_first_use(kind):
    descriptor = kind.make()
    assert not descriptor.is_initialized()
    assert not descriptor.is_bound
    assert str(descriptor) == f"Queue[{kind.queue_type}]({descriptor.queue_id})"
    assert repr(descriptor).startswith(
        f"{type(descriptor).__name__}(id='{descriptor.queue_id}', type='{kind.queue_type}', lazy"
    )


def test_use_initialises_and_binds(make):
    descriptor = make()
    descriptor.put("a")
    assert descriptor.is_initialized()
    assert descriptor.is_bound
    assert ", initialized" in repr(descriptor)


@pytest.mark.parametrize("bind", ["put", "share", "pickle", "to_dict", "copy"])
def test_a_channel_is_bound_by(make, bind):
    descriptor = make()
    actions = {
        "put": lambda: descriptor.put("a"),
        "share": descriptor.share,
        "pickle": lambda: pickle.dumps(descriptor),
        "to_dict": descriptor.to_dict,
        "copy": lambda: copy.copy(descriptor),
    }
    actions[bind]()
    assert descriptor.is_bound
    assert descriptor.clone().same_channel(descriptor)
    assert descriptor.is_initialized() == (bind == "put")


def test_equality_and_hash_do_not_change_with_use(make, kind):
    descriptor = make(maxsize=7, queue_id=None)
    twin = kind.make(maxsize=7, queue_id=descriptor.queue_id)
    before = hash(descriptor)
    assert descriptor == twin
    descriptor.put("a")
    descriptor.share()
    pickle.dumps(descriptor)
    assert hash(descriptor) == before == hash(twin)
    assert descriptor == twin
    assert twin.is_bound, "it is a property of the channel"
    assert descriptor == kind.unpickle(pickle.dumps(descriptor))


def test_label_scope_and_configuration_tell_descriptors_apart(kind):
    descriptor = kind.make(queue_id="q", maxsize=1)
    assert descriptor != kind.make(queue_id="other", maxsize=1)
    assert descriptor != kind.make(queue_id="q", maxsize=2)
    assert descriptor != kind.make(queue_id="q", maxsize=1, scope="job-1")
    assert descriptor != descriptor.share().clone("label")
    assert descriptor != "q"


def test_two_descriptors_of_one_identity_are_one_channel_in_a_process(make, kind):
    one, other = make(queue_id="said-twice"), make(queue_id="said-twice")
    one.put("a")
    assert other.get() == "a"
    assert one.queue_instance is other.queue_instance


def test_scopes_keep_channels_apart(make):
    ours, theirs = make(queue_id="orders", scope="job-1"), make(queue_id="orders", scope="job-2")
    ours.put("ours")
    assert theirs.empty()
    assert not ours.same_channel(theirs)
    assert ours.get() == "ours"


def test_a_clone_of_a_bound_descriptor_is_the_same_channel_both_ways(make):
    descriptor = make()
    descriptor.put("from the first")
    clone = descriptor.clone()
    named = descriptor.clone("another label")
    assert (clone.queue_id, named.queue_id) == (descriptor.queue_id, "another label")
    assert clone.channel_id == named.channel_id == descriptor.channel_id
    assert clone.queue_instance is named.queue_instance is descriptor.queue_instance
    assert named.get() == "from the first"
    named.put("back")
    assert descriptor.get() == "back"
    assert f"channel_id='{descriptor.channel_id}'" in repr(named)


def test_a_clone_of_an_unused_descriptor_is_independent(make):
    descriptor = make(maxsize=3)
    clone, named = descriptor.clone(), descriptor.clone(f"{descriptor.queue_id}-named")
    assert clone.queue_id == f"{descriptor.queue_id}_clone"
    assert re.fullmatch(rf"{clone.queue_id}_[0-9a-f]{{8}}", clone.channel_id)
    assert named.channel_id == named.queue_id
    assert not descriptor.is_bound
    assert not clone.is_bound
    assert clone.metadata == descriptor.metadata
    descriptor.put("a")
    assert clone.empty()
    assert named.empty()
    clone.put("b")
    assert descriptor.get() == "a"
    for handle in (clone, named):
        handle.close()


def test_a_share_is_the_same_channel_used_or_not(make):
    descriptor = make()
    share = descriptor.share()
    assert share == descriptor
    assert share.created_timestamp == descriptor.created_timestamp
    assert not share.is_initialized()
    share.put("a")
    assert descriptor.get() == "a"
    assert copy.deepcopy({"queue": descriptor})["queue"].same_channel(descriptor)


def test_same_channel_asks_for_the_channel_only(make, kind):
    descriptor = make()
    assert descriptor.share().clone("label").same_channel(descriptor)
    assert not kind.make().same_channel(descriptor)


def test_a_round_trip_keeps_everything(make, kind):
    original = make(maxsize=5).share().clone("label")
    for handle in (
        kind.unpickle(pickle.dumps(original)),
        kind.resolve(original.to_dict()),
        kind.resolve(json.loads(json.dumps(original.to_dict()))),
        kind.from_json(type(original), original.to_json()),
    ):
        assert handle == original
        assert handle.created_timestamp == original.created_timestamp
        assert handle.is_bound
        assert not handle.is_initialized()
        handle.put("a")
        assert original.get() == "a"
        original.trim()


def test_trim_lets_go_of_the_handle_only(make):
    descriptor = make()
    descriptor.put("kept")
    instance = descriptor.queue_instance
    del instance
    descriptor.trim()
    assert not descriptor.is_initialized()
    assert descriptor.is_bound
    assert descriptor.get() == "kept"
    descriptor.clear_cache()
    assert not descriptor.is_initialized()


def test_there_is_one_live_queue_however_many_descriptors(make):
    descriptor = make()
    handles = [descriptor.share() for _ in range(100)] + [pickle.loads(pickle.dumps(descriptor)) for _ in range(100)]
    descriptor.put("a")
    assert {id(handle.queue_instance) for handle in handles} == {id(descriptor.queue_instance)}


# --- in two processes -------------------------------------------------------------------------------------


def test_used_here_cloned_there(make_crossing, crossing, peers):
    descriptor = make_crossing()
    descriptor.put("from here")
    data = pickle.dumps(descriptor)
    assert peers[0].run(get_there, crossing, data, 1, "a label there") == ["from here"]
    assert peers[0].run(put_there, crossing, data, ["from there"], "another") == descriptor.channel_id
    assert descriptor.get(timeout=30) == "from there"


def test_never_used_pickled_to_two_and_cloned_in_both(make_crossing, crossing, peers):
    descriptor = make_crossing()
    data = pickle.dumps(descriptor)
    one, other = peers
    other.start(get_there, crossing, data, 2, "responder")
    assert one.run(put_there, crossing, data, ["request", "again"], "caller") == descriptor.channel_id
    assert other.result() == ["request", "again"]
    assert not descriptor.is_initialized()
    one.run(put_there, crossing, data, ["for the first"])
    assert descriptor.get(timeout=30) == "for the first"


def test_a_stranger_may_reuse_the_label_of_a_clone(make_crossing, crossing, peers):
    label = f"reused-{crossing}"
    descriptor = make_crossing()
    clone = descriptor.share().clone(label)
    clone.put("ours")
    assert peers[0].run(stranger_there, crossing, label) == ["the stranger's"]
    assert descriptor.get_many(10) == ["ours"]
    with pytest.raises(queue.Empty):
        clone.get_nowait()


def test_a_clone_of_a_clone_through_dict_and_json(make_crossing, crossing, peers):
    descriptor = make_crossing()
    described = peers[0].run(clone_there, crossing, descriptor.share().clone("a").to_dict(), "b")
    assert (described["queue_id"], described["channel_id"]) == ("b", descriptor.channel_id)
    text = peers[1].run(clone_to_json, crossing, described, "c")
    peers[0].run(put_over_json, crossing, type(descriptor), text, ["through it all"])
    assert descriptor.get(timeout=30) == "through it all"


def test_bound_travels_and_initialised_does_not(make_crossing, crossing, peers):
    descriptor = make_crossing()
    descriptor.put("a")
    initialized, bound, hashed_alike, text, back = peers[0].run(facts_there, crossing, pickle.dumps(descriptor))
    assert (initialized, bound, hashed_alike, text) == (False, True, True, str(descriptor))
    assert back == descriptor
    assert hash(back) == hash(descriptor)


def test_a_python_queue_is_not_reached_from_another_process(kinds, peers):
    kind = kinds["python"]
    unused, used = kind.make(), kind.make()
    used.put("a")
    for descriptor in (unused, used):
        with pytest.raises(Failed) as failure:
            peers[0].run(put_there, kind, pickle.dumps(descriptor), ["lost"])
        assert failure.value.kind is ChannelNotReachable
        assert "use_multiprocessing=True" in failure.value.text
    used.close()


# --- serial forms -----------------------------------------------------------------------------------------


def test_a_python_queue_in_use_has_no_json(kinds):
    descriptor = kinds["python"].make()
    assert descriptor.can_serialize
    descriptor.put("a")
    assert not descriptor.can_serialize
    with pytest.raises(ValueError, match="to_serializable_descriptor"):
        descriptor.to_json()
    handle = descriptor.to_serializable_descriptor()
    assert handle.can_serialize
    assert type(handle).from_json(handle.to_json()).get() == "a"
    descriptor.close()


def test_what_others_reach_always_has_a_json(make_crossing):
    descriptor = make_crossing()
    descriptor.put("a")
    assert descriptor.can_serialize
    assert json.loads(descriptor.to_json())["channel_id"] == descriptor.channel_id


def test_the_key_is_in_no_serial_form_and_no_text(kinds):
    kind = kinds["rpc"]
    descriptor = kind.make()
    descriptor.put("a")
    key = b"the key of the contract suite"
    forms = [pickle.dumps(descriptor), descriptor.to_json(), repr(descriptor), str(descriptor)]
    forms += [descriptor.to_dict(), descriptor.metadata, descriptor.statistics(), descriptor.queue_instance]
    forms += [vars(descriptor.queue_instance)]
    assert [form for form in forms if key in (form if isinstance(form, bytes) else repr(form).encode())] == []
    descriptor.close()


# --- bad input --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"queue_type": "carrier pigeon"}, "'queue_type' is 'carrier pigeon', there are 'python', 'ray', 'rpc'"),
        ({"queue_type": None}, "'queue_type' is None"),
        ({"queue_id": None}, "'queue_id' is None"),
        ({"queue_id": ""}, "queue_id is ''"),
        ({"channel_id": ""}, "'channel_id' is empty"),
        ({"bound": "yes"}, "'bound' is 'yes'"),
        ({"metadata": []}, r"'metadata' is \[\]"),
        ({"metadata": {"colour": "red"}}, "colour"),
        ({"colour": "red"}, "unknown 'colour'"),
    ],
)
def test_a_malformed_dict_is_refused_with_what_is_wrong(kind, change, text):
    with pytest.raises(ValueError, match=text):
        resolve_descriptor({**kind.make().to_dict(), **change})


def test_a_dict_without_its_name_is_refused(kind):
    described = kind.make().to_dict()
    del described["queue_id"]
    with pytest.raises(ValueError, match="'queue_id' is missing"):
        resolve_descriptor(described)


def test_what_is_no_dict_is_refused(kind):
    with pytest.raises(ValueError, match="list instead of a dict"):
        resolve_descriptor([])
    with pytest.raises(ValueError, match="list instead of a dict"):
        type(kind.make()).from_json("[]")


def test_a_class_reads_its_own_kind_only(kinds):
    described = kinds["rpc"].make().to_dict()
    with pytest.raises(ValueError, match="resolve_descriptor"):
        type(kinds["python"].make()).from_dict(described)


def test_hand_written_dicts_need_type_and_name_only(kinds):
    descriptor = resolve_descriptor({"queue_type": "python", "queue_id": "by hand"})
    assert (descriptor.channel_id, descriptor.is_bound, descriptor.scope) == ("by hand", False, "cluster")


@pytest.mark.parametrize("name", ["queue_id", "scope"])
@pytest.mark.parametrize("value", ["", 7])
def test_names_are_texts(kind, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        kind.make(**{name: value})


def test_a_new_label_is_a_text(kind):
    with pytest.raises(ValueError, match="new_queue_id is ''"):
        kind.make().clone("")


@pytest.mark.parametrize("maxsize", ["10", 1.5, True, None])
def test_maxsize_is_an_int(kind, maxsize):
    with pytest.raises(ValueError, match="maxsize is"):
        kind.make(maxsize=maxsize)
