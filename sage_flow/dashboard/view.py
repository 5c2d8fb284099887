"""What the page shows of a job, as HTML. Whatever comes from the user is escaped; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final
from urllib.parse import quote

from sage_flow.cli.stacks import slow_lines
from sage_flow.dashboard.looks import JobLook
from sage_flow.metrics.shares import Shares, by_chain, by_operator, shares_between
from sage_flow.notebook.svg import BoxLook, svg_of
from sage_flow.plan.picture import Arrow, Box, Picture

__all__ = ["JobView", "jobs_table", "logs", "notice", "status_line", "table"]

_BUSY, _HELD, _CALLS = "#d93025", "#f2a900", "#7b52c7"
_LEAST_SHOWN: Final = 0.01
_MOSTLY: Final = 0.5
"""From this share of its time on a subtask has the colour of what it waits for."""


@dataclass(frozen=True)
class JobView:
    """A job at one moment, and one about a second earlier, from which rates and shares come.

    `seconds` are between them. `event_times`: how far operators are, as people read it.
    """

    look: JobLook
    before: JobLook | None = None
    seconds: float = 0.0
    event_times: Mapping[str, str] | None = None

    @property
    def shares(self) -> dict[str, Shares]:
        """Of the subtasks, by name."""
        return shares_between(None if self.before is None else self.before.statistics, self.look.statistics)

    def rate(self, operator: str) -> float:
        """Records per second of an operator."""
        now = self.look.metrics["operators"].get(operator)
        then = None if self.before is None else self.before.metrics["operators"].get(operator)
        if now is None or then is None or self.seconds <= 0 or self.look.is_over:
            return 0.0
        return max(0.0, float(now.emitted - then.emitted) / self.seconds)

    def graph(self) -> str:
        """The pipeline with its rates, coloured by where its time goes."""
        told = self.look.statistics["pipeline"]
        if not told["boxes"]:
            return '<p class="none">no attempt has begun since the page was opened, so there is no picture</p>'
        boxes = tuple(Box(**box) for box in told["boxes"])
        picture = Picture(told["job"], boxes, tuple(Arrow(**arrow) for arrow in told["arrows"]))
        chains = {} if self.look.is_over else by_chain(self.look.statistics, self.shares)
        return svg_of(picture, looks={box.id: self._box(box, chains.get(box.id, Shares())) for box in boxes})

    def _box(self, box: Box, shares: Shares) -> BoxLook:
        lines = []
        for name, _ in box.operators:
            count = self.look.metrics["operators"].get(name)
            if count is not None and not box.service:
                lines.append(f"{count.emitted:,} · {self.rate(name):,.0f}/s")
        queued = sum(one["queued"] for one in self._subtasks() if one["chain"] == box.id)
        waits = (("waits for readers", shares.credit), ("waits for calls", shares.calls))
        lines += [f"busy {shares.busy:.0%}", *(f"{what} {share:.0%}" for what, share in waits if share >= _LEAST_SHOWN)]
        lines += [f"{queued:,} waiting"] if queued else []
        times = self.event_times or {}
        lines += list(dict.fromkeys(f"at {times[name]}" for name, _ in box.operators if name in times))
        kind = _kind_of(shares)
        color = {"held": _HELD, "calls": _CALLS}.get(kind, _BUSY)
        depth = {"held": shares.credit * 0.5, "calls": shares.calls * 0.5}.get(kind, shares.busy)
        facts = (
            ("operators", " ".join(name for name, _ in box.operators)),
            ("busy", f"{shares.busy:.2f}"),
            ("kind", kind),
        )
        return BoxLook(color, depth, tuple(lines), facts)

    def _subtasks(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.look.statistics["subtasks"]
        return found

    def operators(self) -> str:
        """A row per operator, the busiest first."""
        counts = self.look.metrics["operators"]
        shares = {} if self.look.is_over else by_operator(self.look.statistics, self.shares)
        times = self.event_times or {}
        return table(
            ("operator", "busy", "records", "records/s", "skipped", "dead letters", "late", "event time (UTC)"),
            (
                (
                    name,
                    f"{shares[name]:.0%}" if name in shares else "-",
                    f"{counts[name].emitted:,}",
                    f"{self.rate(name):,.0f}",
                    f"{counts[name].skipped:,}",
                    f"{counts[name].dead_letters:,}",
                    f"{counts[name].late:,}",
                    times.get(name, "-"),
                )
                for name in dict.fromkeys([*shares, *counts])
                if name in counts
            ),
            "operators",
        )

    def subtasks(self) -> str:
        """A row per subtask."""
        shares = self.shares
        rows = []
        for one in self._subtasks():
            flow, found = one["flow"] or {}, shares.get(one["name"])
            rows.append(
                (
                    one["name"],
                    self.look.nodes.get(one["name"], "-"),
                    *(["-"] * 4 if found is None else (f"{share:.0%}" for share in found)),
                    _number(flow.get("records_in")),
                    _number(flow.get("records_out")),
                    _number(flow.get("bytes_in")),
                    _number(flow.get("bytes_out")),
                    _number(one["queued"]),
                )
            )
        titles = ("subtask", "node", "busy", "idle", "waits for readers", "in calls", "records in", "records out")
        return table((*titles, "bytes in", "bytes out", "waiting"), rows, "subtasks")

    def channels(self) -> str:
        """A row per channel, the fullest first."""
        rows = (
            (
                one["name"] if one["kind"] != "responses" else f"responses of {one['host']}",
                one["kind"],
                one["medium"],
                _number(one["depth"]),
                _duration(one["oldest_s"]),
                _number(one["received"]),
                f"{one['rate_per_s']:,.0f}",
                _number(one["bytes"]),
            )
            for one in sorted(self.look.statistics["channels"], key=lambda one: -int(one["depth"]))
        )
        return table(("channel", "kind", "medium", "waiting", "oldest", "received", "per s", "bytes"), rows, "channels")

    def services(self) -> str:
        """A row per method of a service."""
        rows = []
        for service, methods in self.look.metrics["services"].items():
            for method, told in methods.items():
                batch = told["batched_calls"] / told["batches"] if told.get("batches") else None
                times = [told[kind].get(p) for kind in ("latency_ms", "queue_ms") for p in ("p50", "p90", "p99")]
                rows.append(
                    (
                        f"{service}.{method}",
                        f"{told['calls']:,}",
                        f"{told['errors']:,}",
                        f"{told['in_flight']:,}",
                        *(_duration(None if ms is None else ms / 1000) for ms in times),
                        "-" if batch is None else f"{batch:.1f}",
                    )
                )
        titles = ("method", "calls", "errors", "in flight", "latency p50", "p90", "p99", "queue p50", "p90", "p99")
        return table((*titles, "batch"), rows, "services")

    def checkpoints(self) -> str:
        """A row per checkpoint, the latest first."""
        rows = (
            (
                str(info.checkpoint),
                "complete" if info.failed is None else f"failed: {info.failed}",
                _duration(info.took_s),
                _number(info.size),
            )
            for info in reversed(self.look.metrics["checkpoints"])
        )
        return table(("checkpoint", "", "took", "bytes"), rows, "checkpoints")

    def errors(self) -> str:
        """What has failed, and what the subtasks have seen."""
        parts = [f'<pre class="failure">{escape(self.look.failure)}</pre>'] if self.look.failure else []
        attempt = self.look.statistics["attempt"]
        parts += [f"<p>this is attempt {attempt}: the job has failed and started again</p>"] if attempt > 1 else []
        for failure in reversed(self.look.statistics["failures"]):
            parts.append(f'<h4>an earlier attempt</h4><pre class="earlier">{escape(failure)}</pre>')
        for name, story in self.look.statistics["stories"].items():
            parts.append(f"<h4>{escape(name)}</h4><ul>{''.join(f'<li>{escape(event)}</li>' for event in story)}</ul>")
        silent = self.look.statistics["unresponsive"]
        parts += [f"<p>no answer within a second: {escape(', '.join(silent))}</p>"] if silent else []
        return "".join(parts) or '<p class="none">none</p>'


def _kind_of(shares: Shares) -> str:
    if shares.credit >= _MOSTLY:
        return "held"
    if shares.calls >= _MOSTLY:
        return "calls"
    return "busy" if shares.busy >= _MOSTLY else "idle"


def status_line(look: JobLook) -> str:
    """Name, place and status, and where user code has been for long."""
    told = [*look.notes, *([] if look.is_over else slow_lines(look.statistics["subtasks"]))]
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in told)
    status = f'<span class="status {escape(look.status.lower())}">{escape(look.status)}</span>'
    return f"<h2>{escape(look.name)} {status}</h2><p>{escape(look.where)}</p>{notes}"


def jobs_table(looks: Iterable[JobLook], chosen: str | None) -> str:
    """A row per job, each a link to it."""
    rows = "".join(
        f'<tr class="{"chosen" if look.key == chosen else ""}"><td><a href="/?job={escape(quote(look.key, safe=""))}">'
        f"{escape(look.name)}</a></td><td>{escape(look.where)}</td>"
        f'<td><span class="status {escape(look.status.lower())}">{escape(look.status)}</span></td></tr>'
        for look in looks
    )
    return f'<table class="jobs"><tbody>{rows}</tbody></table>' if rows else '<p class="none">no job runs</p>'


def notice(text: str) -> str:
    """A sentence; nothing if it is empty."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def logs(texts: Mapping[str, str], most: int) -> str:
    """The end of what each process has printed, at most so many characters."""
    parts = (f"<h4>{escape(name)}</h4><pre>{escape(text[-most:])}</pre>" for name, text in texts.items())
    return "".join(parts) or '<p class="none">none</p>'


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> str:
    """A table, or that there is nothing."""
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    if not body:
        return f'<p class="none {name}">none</p>'
    return f'<table class="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
