"""What a subtask asks its shell: the wall clock, and how its records arrive."""

from __future__ import annotations

from sage_flow.executors.calling import CallingPort
from sage_flow.executors.shell import Shell
from sage_flow.plan.physical import Plan

__all__ = ["ShellPort"]


class ShellPort(CallingPort):
    """A port whose transport is a shell."""

    def __init__(self, plan: Plan, address: int, shell: Shell, first_replica: int) -> None:
        super().__init__(plan, address, shell, first_replica=first_replica)
        self._shell = shell
        self.resource = shell.resources.get
        self.user_lock = shell.condition().lock

    def wall_ms(self) -> int:
        return self._shell.wall_ms()

    def shares_objects(self, channel: int) -> bool:
        return self._shell.shares_objects(self._address, self._outgoing.consumer(channel))
