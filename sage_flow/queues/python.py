"""`PythonQueueDescriptor`: queues between the threads of a process, or between the processes of a machine."""

from __future__ import annotations

from typing import Any, ClassVar

from sage_flow.errors import ChannelNotReachable, QueueClosed
from sage_flow.queues.channel import this_process
from sage_flow.queues.descriptor import CLUSTER, BaseQueueDescriptor
from sage_flow.queues.local import LocalQueue
from sage_flow.queues.methods import LiveQueue
from sage_flow.queues.opcodes import VISITOR


class PythonQueueDescriptor(BaseQueueDescriptor):
    """A queue in the process that makes this descriptor; `get` returns the very object that was put.

    In other processes its first use raises ChannelNotReachable. With `use_multiprocessing` it can be used in all
    processes of this machine and user: the process that uses it first serves it over a Unix socket, and items are
    pickled. The queue then lives as long as that process.

    >>> orders = PythonQueueDescriptor(maxsize=100)
    >>> orders.put("tea")
    >>> orders.clone("copy").get()
    'tea'
    """

    queue_type: ClassVar[str] = "python"

    def __init__(
        self, maxsize: int = 0, use_multiprocessing: bool = False, queue_id: str | None = None, *, scope: str = CLUSTER
    ) -> None:
        self._use_multiprocessing = bool(use_multiprocessing)
        self._home = self._new_home()
        super().__init__(maxsize, queue_id, scope)

    @property
    def metadata(self) -> dict[str, Any]:
        """The configuration, as the constructor takes it."""
        return {"maxsize": self._maxsize, "use_multiprocessing": self._use_multiprocessing}

    @property
    def can_serialize(self) -> bool:
        """Whether `to_json` works: with `use_multiprocessing` always, else as long as this handle was not used."""
        return self._use_multiprocessing or not self.is_initialized()

    @property
    def _place(self) -> tuple[str, ...]:
        return (self._home,)

    def _place_beside(self) -> tuple[Any, ...]:
        return (self._use_multiprocessing,)  # reply queues are in this process, wherever the requests are

    @property
    def _host(self) -> str:
        return f"Unix socket in {self._home}" if self._use_multiprocessing else f"process {self._home}"

    @property
    def _crosses_processes(self) -> bool:
        return self._use_multiprocessing

    def _new_home(self) -> str:
        if self._use_multiprocessing:
            from sage_flow.queues.process import sockets_of_this_process

            return sockets_of_this_process()
        return this_process()

    def _make_live(self) -> LiveQueue:
        if self._use_multiprocessing:
            from sage_flow.queues.process import reach_process_queue

            return reach_process_queue(self._home, self._scope, self.channel_id, self._maxsize, self._part)
        if self._home != this_process():
            raise ChannelNotReachable(
                f"the items of {self} are in process {self._home}, and this is process {this_process()}: use "
                "use_multiprocessing=True or an RPCQueueDescriptor to reach other processes"
            )
        if self._part == VISITOR:
            raise QueueClosed(f"{self} is closed: the caller that it was created for has no handle of it any more")
        return LocalQueue(str(self), self._maxsize)
