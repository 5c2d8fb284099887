"""The plan as text and as a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Sequence

from sage_flow.plan.graph import Operator
from sage_flow.plan.physical import DRIVER_CHAIN, REPLY, Chain, Edge, Plan

__all__ = ["draw", "explain", "how", "shown"]


def explain(plan: Plan, missing: Sequence[str] = ()) -> str:
    """One block per chain: its operators, then where its records go; at the end what is `missing`."""
    subtasks = len(plan.subtasks)
    lines = [f"job {plan.job!r}: {len(plan.chains)} chains, {subtasks} subtasks"]
    for chain in plan.chains:
        owner = f" (service {chain.service!r})" if chain.service else ""
        needs = f"   {chain.options}" if chain.options else ""
        lines.append(f"\n[{chain.id}] {chain.name}   x{chain.parallelism}{owner}{needs}")
        for operator in chain.operators:
            parts = [f"{operator.name:<24} {operator.kind!s:<16} {operator.location}", *_notes(operator)]
            lines.append("      " + "  ".join(parts))
        for edge in plan.edges:
            if edge.source == chain.id:
                lines.append(f"   -> {_target(plan, edge)}  by {how(edge)}")
    for service in plan.services.values():
        lines.append(f"\nservice {service.name!r}: calls go to [{service.chain}], timeout {service.timeout_s:g} s")
    lines.extend(f"\nmissing: {text}" for text in missing)
    return "\n".join(lines)


def draw(plan: Plan, missing: Sequence[str] = ()) -> str:
    """A Mermaid flowchart: a box per chain, arrows for edges, services framed; in comments what is `missing`."""
    lines = ["flowchart LR", *(f"    %% missing: {_quote(text)}" for text in missing)]
    for chain in plan.chains:
        if chain.service is None:
            lines.append("    " + _box(chain))
    for service in plan.services.values():
        lines.append(f'    subgraph service_{service.chain}["service {_quote(service.name)}"]')
        lines.extend("        " + _box(chain) for chain in plan.chains if chain.service == service.name)
        lines.append("    end")
    for edge in plan.edges:
        if edge.target not in (DRIVER_CHAIN, REPLY):
            lines.append(f'    c{edge.source} -->|"{_quote(how(edge))}"| c{edge.target}')
    return "\n".join(lines) + "\n"


def _notes(operator: Operator) -> list[str]:
    notes = [f"on_error={operator.on_error}"] if operator.on_error != "fail" else []
    if "max_rate" in operator.options:
        notes.append(f"max_rate={operator.options['max_rate']:g}")
    return notes if operator.label == operator.name else [*notes, f"rows {operator.label!r}"]


def shown(operator: Operator) -> str:
    """The name of an operator, with that of the rows where it collects."""
    return operator.name if operator.label == operator.name else f"{operator.name}: {operator.label}"


def _box(chain: Chain) -> str:
    lines = [*map(shown, chain.operators), f"x{chain.parallelism}"]
    if chain.options:
        lines.append(str(chain.options))
    return f'c{chain.id}["{"<br/>".join(map(_quote, lines))}"]'


def _quote(text: str) -> str:
    return " ".join(text.replace('"', "#quot;").split("\n"))


def _target(plan: Plan, edge: Edge) -> str:
    if edge.target == DRIVER_CHAIN:
        return "driver"
    if edge.target == REPLY:
        return "reply to the caller"
    return f"[{edge.target}] {plan.chains[edge.target].name}"


def how(edge: Edge) -> str:
    """How records travel on an edge."""
    how = str(edge.partitioning)
    if edge.key is not None:
        how += f" of {edge.key.name}"
    return how if edge.tag is None else f"{how}, side output {edge.tag}"
