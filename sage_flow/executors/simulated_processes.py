"""The processes of a simulated job: which subtasks die together, and in which order the witnesses report it.

The supervisor is that of real processes; what it sees is simulated. A process is connected with the driver from its
first message on. When it dies, its messages still arrive, and the end of its connection is reported after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

from sage_flow.errors import WorkerDied
from sage_flow.executors.shell import Condition
from sage_flow.executors.supervisor import Supervisor
from sage_flow.plan.physical import Plan
from sage_flow.runtime.membership import LEADER, Declare, Suspicion
from sage_flow.runtime.messages import DRIVER, Message, PeerLost

if TYPE_CHECKING:
    from sage_flow.executors.scheduler import Scheduler

__all__ = ["ProcessDeath", "SimulatedProcesses"]

_START_S: Final = 60.0  # seconds for a process to connect
_LEASE_S: Final = 10.0
_LOOK_S: Final = 0.001  # seconds between checks whether all messages have arrived


@dataclass(frozen=True)
class ProcessDeath:
    """The death of several processes at once, as when their node fails.

    `processes`: their numbers, from 1 on. `after`: they die after the first message of this class from one of them to
    the driver; None: before their first step. `told_first`: which end is reported first, that of the connection or that
    of the process; the other follows `gap_s` seconds later. "nobody": only the lease of the connection ends.
    """

    processes: tuple[int, ...]
    after: type[Any] | None = None
    told_first: Literal["connection", "process", "nobody"] = "process"
    gap_s: float = 0.5


class SimulatedProcesses:
    """The processes of a job of the simulation, and their supervisor. `count`: 0 for one process per subtask."""

    def __init__(
        self,
        plan: Plan,
        scheduler: Scheduler,
        condition: Callable[[], Condition],
        tell_driver: Callable[[Any], None],
        count: int = 0,
        deaths: Iterable[ProcessDeath] = (),
    ) -> None:
        self._scheduler = scheduler
        self._make_condition = condition
        self._names = {subtask.address: subtask.name for subtask in plan.subtasks}
        self._process_of = {a: index % (count or len(self._names)) + 1 for index, a in enumerate(self._names)}
        self._receivers: dict[int, Callable[[Message], None]] = {}
        self._connected: set[int] = set()
        self._dead: set[int] = set()
        self._deaths = list(deaths)  # to come
        subtasks = {process: self._addresses(process) for process in self._process_of.values()}
        self._supervisor = Supervisor(subtasks, self, tell_driver, condition(), lambda: scheduler.now, start_s=_START_S)
        self._receivers[DRIVER] = self._supervisor.deliver

    def start(self, receivers: Mapping[int, Callable[[Message], None]]) -> None:
        """Begin to watch. `receivers` take the messages for each subtask."""
        self._receivers.update(receivers)
        self._scheduler.spawn("supervisor", self._supervisor.run)
        for death in [death for death in self._deaths if death.after is None]:
            self._die(death)

    def deliver(self, target: int, message: Message) -> None:
        """A message has arrived."""
        subtask = getattr(message, "subtask", None) if target == DRIVER else None
        if subtask is None:  # not a report of a subtask
            self._receivers[target](message)
            return
        process = self._process_of[subtask]
        if process not in self._connected:
            self._connected.add(process)
            self._supervisor.connected(process)
        self._receivers[DRIVER](message)
        for death in list(self._deaths):
            if process in death.processes and death.after is type(message):
                self._die(death)

    def addresses_of(self, activation: str) -> tuple[int, ...]:
        """Return the subtask of an activation, which may be a further one, an event loop or a feeder."""
        owner = activation.partition(" #")[0].removesuffix(" event loop").removeprefix("feeder of ")
        return tuple(address for address, name in self._names.items() if name == owner)

    def crash(self, activation: str) -> None:
        """The process of an activation dies."""
        processes = {self._process_of[address] for address in self.addresses_of(activation)}
        self._die(ProcessDeath(tuple(processes - self._dead)))

    # -- what the supervisor sees ---------------------------------------------------------------------------

    def kill(self, process: int) -> None:
        self._die(ProcessDeath((process,)))

    def death_of(self, declared: Declare) -> WorkerDied:
        how = declared.how or f"was killed: {', '.join(map(_told, declared.suspicions))}"
        names = ", ".join(self._names[address] for address in declared.subtasks)
        return WorkerDied(f"process {declared.process} ({names}) {how}")

    # -- deaths ---------------------------------------------------------------------------------------------

    def _addresses(self, process: int) -> tuple[int, ...]:
        return tuple(address for address, other in self._process_of.items() if other == process)

    def _die(self, death: ProcessDeath) -> None:
        if death in self._deaths:
            self._deaths.remove(death)
        dying = [process for process in death.processes if process not in self._dead]
        self._dead.update(dying)
        addresses = {address for process in dying for address in self._addresses(process)}
        self._receivers.update(dict.fromkeys(addresses, lambda message: None))
        self._scheduler.crash(lambda name: not addresses.isdisjoint(self.addresses_of(name)))
        for process in dying:
            self._scheduler.spawn(f"end of process {process}", partial(self._tell, process, death))

    def _tell(self, process: int, death: ProcessDeath) -> None:
        """Report the death as system and network would; the body of an activation."""
        condition = self._make_condition()
        match death.told_first:
            case "nobody":
                condition.wait(_LEASE_S)
                if process in self._connected:  # workers have no leases with each other
                    reason = f"it was silent for {_LEASE_S:g} s, the length of its lease"
                    self._supervisor.peer_lost(process, reason)
            case "connection":
                self._end_connections(process, condition)
                condition.wait(death.gap_s)
                self._end_process(process)
            case "process":
                self._end_process(process)
                condition.wait(death.gap_s)
                self._end_connections(process, condition)

    def _end_process(self, process: int) -> None:
        self._supervisor.process_ended(process, "was crashed by the simulation")

    def _end_connections(self, process: int, condition: Condition) -> None:
        mine = self._addresses(process)
        while any(self._scheduler.is_under_way(address, DRIVER) for address in mine):
            condition.wait(_LOOK_S)
        reason = "it closed its connection"
        if process in self._connected:
            self._supervisor.peer_lost(process, reason)
        for other in sorted(self._connected - self._dead):
            self._scheduler.send(self._addresses(other)[0], DRIVER, PeerLost(other, process, reason))


def _told(suspicion: Suspicion) -> str:
    witness = "the driver" if suspicion.witness == LEADER else f"process {suspicion.witness}"
    return f"{witness} lost its connection with process {suspicion.process} ({suspicion.reason})"
