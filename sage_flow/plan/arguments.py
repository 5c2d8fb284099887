"""The constructor arguments of services: every replica has copies of its own, wherever it runs.

They are pickled when the job starts. So what the program does to its objects afterwards does not reach a service, nor
what a service does to them the program or another replica, be they threads of one process or actors of a cluster.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sage_flow.errors import PipelineError
from sage_flow.plan import kinds
from sage_flow.plan.graph import Operator
from sage_flow.plan.physical import Chain, Plan
from sage_flow.wire import by_value
from sage_flow.wire.codec import cannot_pickle, is_atomic

__all__ = ["arguments_of", "with_own_arguments"]


def with_own_arguments(plan: Plan) -> Plan:
    """The plan with the arguments of its services pickled. Raises: PipelineError that names one that cannot be."""
    return replace(plan, chains=tuple(map(_packed_chain, plan.chains)))


def arguments_of(operator: Operator) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """Arguments for one replica of a class service. Raises what unpickling raises."""
    given = operator.options["arguments"]
    args, kwargs = pickle.loads(given) if isinstance(given, bytes) else given
    return args, kwargs


def _packed_chain(chain: Chain) -> Chain:
    if chain.head.kind is not kinds.SERVICE:
        return chain
    return replace(chain, operators=(_packed(chain.head),))


def _packed(operator: Operator) -> Operator:
    args, kwargs = operator.options["arguments"]
    if is_atomic((args, *kwargs.values())):
        return operator
    try:
        packed = by_value.dumps((args, kwargs))
    except Exception as error:
        raise _cannot_copy(operator, args, kwargs) from error
    return replace(operator, options={**operator.options, "arguments": packed})


def _cannot_copy(operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> PipelineError:
    named = [(f"argument {number}", value) for number, value in enumerate(args, start=1)]
    named += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    told = "its arguments cannot be pickled together"
    for name, value in named:
        try:
            by_value.dumps(value)
        except Exception as error:
            told = f"{name} cannot be copied: {cannot_pickle(value, error)}"
            break
    return PipelineError(
        f"service {operator.name!r} ({operator.location}): each replica needs its own copies of the constructor"
        f" arguments, and {told}; pass its parameters, and create it in __init__() or open()"
    )
