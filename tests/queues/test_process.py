"""What is particular to queues between processes: their sockets, forks, and who serves."""

import multiprocessing
import os
import pickle
import stat
import subprocess
import sys

import pytest

from sage_flow.channels import PythonQueueDescriptor, RPCQueueDescriptor
from sage_flow.errors import ChannelNotReachable

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")


def in_a_fork(function):
    """What `function` returns in a forked child."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            told = pickle.dumps(function())
        except BaseException as error:
            told = pickle.dumps(repr(error))
        os.write(writing, told)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    return told


def test_sockets_are_in_a_directory_of_ours():
    descriptor = PythonQueueDescriptor(use_multiprocessing=True)
    descriptor.put("a")
    directory = descriptor.to_dict()["home"]
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    descriptor.close()


def test_many_queues_take_one_socket():
    def sockets():
        return {entry.inode() for entry in os.scandir(directory)}

    first, *others = (PythonQueueDescriptor(use_multiprocessing=True) for _ in range(10))
    directory = first.to_dict()["home"]
    first.put("a")
    before = sockets()
    for descriptor in others:
        descriptor.put("a")
    assert sockets() == before
    for descriptor in [first, *others]:
        descriptor.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reaches_what_its_parent_uses():
    descriptor = PythonQueueDescriptor(use_multiprocessing=True)
    descriptor.put("from the parent")
    assert in_a_fork(lambda: (descriptor.get(), descriptor.put("from the child"))) == ("from the parent", None)
    assert descriptor.get() == "from the child"
    descriptor.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_parent_reaches_what_its_forked_child_used_first():
    descriptor = PythonQueueDescriptor(use_multiprocessing=True)
    from_child, to_parent = os.pipe()
    from_parent, to_child = os.pipe()
    child = os.fork()
    if not child:
        try:
            descriptor.put("from the child")
            os.write(to_parent, b"1")
            os.read(from_parent, 1)
        finally:
            os._exit(0)
    assert os.read(from_child, 1) == b"1"
    assert descriptor.get() == "from the child"
    descriptor.close()
    os.write(to_child, b"1")
    os.waitpid(child, 0)
    for end in (from_child, to_parent, from_parent, to_child):
        os.close(end)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("used", ["used", "unused"])
def test_a_python_queue_does_not_follow_a_fork(used):
    descriptor = PythonQueueDescriptor()
    if used == "used":
        descriptor.put("in the parent")
    told = in_a_fork(lambda: descriptor.put("in the child"))
    assert told.startswith(ChannelNotReachable.__name__)
    descriptor.share().close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_shares_what_nobody_has_used_yet():
    """A child cannot learn that its parent used the queue after the fork, nor the parent that its child did."""
    unused = PythonQueueDescriptor(use_multiprocessing=True)
    lazy = RPCQueueDescriptor("127.0.0.1", 1)
    assert not unused.is_bound

    def clones():
        return unused.is_bound, unused.clone("reply").same_channel(unused), lazy.clone().same_channel(lazy)

    assert in_a_fork(clones) == clones() == (True, True, True)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_clone_in_a_forked_child_reaches_what_its_parent_puts_later():
    descriptor = PythonQueueDescriptor(use_multiprocessing=True)
    from_child, to_parent = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(to_parent, descriptor.clone("reply").get(timeout=60).encode())
        finally:
            os._exit(0)
    descriptor.put("for the child")
    assert os.read(from_child, 100) == b"for the child"
    os.waitpid(child, 0)
    descriptor.close()
    for end in (from_child, to_parent):
        os.close(end)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_clones_an_unused_descriptor_for_itself():
    descriptor = PythonQueueDescriptor()

    def use_a_clone():
        clone = descriptor.clone()
        clone.put("a")
        return clone.get()

    assert in_a_fork(use_a_clone) == "a"


SERVE_AND_END = """
import sys
from sage_flow.channels import PythonQueueDescriptor, RPCQueueDescriptor
queue = PythonQueueDescriptor(use_multiprocessing=True)
queue.put("a")
print(queue.to_json())
"""


def test_the_directory_goes_with_the_process_that_made_it():
    ran = subprocess.run([sys.executable, "-c", SERVE_AND_END], capture_output=True, text=True, check=True)
    descriptor = PythonQueueDescriptor.from_json(ran.stdout)
    assert not os.path.exists(descriptor.to_dict()["home"])
    with pytest.raises(ChannelNotReachable, match="the process that made its descriptor has ended"):
        descriptor.get()


def _race(data, barrier, answers):
    descriptor = pickle.loads(data)
    barrier.wait()
    descriptor.put(os.getpid())
    answers.put(os.getpid())
    barrier.wait()  # whoever serves does so until all have put


@pytest.mark.race
def test_processes_that_use_it_first_at_once_agree_on_one_queue():
    spawn = multiprocessing.get_context("spawn")
    descriptor = PythonQueueDescriptor(use_multiprocessing=True)
    data, barrier, answers = pickle.dumps(descriptor), spawn.Barrier(5), spawn.SimpleQueue()
    processes = [spawn.Process(target=_race, args=(data, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()
    barrier.wait(60)
    put = sorted(descriptor.get(timeout=60) for _ in range(4))
    assert put == sorted(answers.get() for _ in range(4)) == sorted(process.pid for process in processes)
    barrier.wait(60)
    for process in processes:
        process.join()
    descriptor.close()
