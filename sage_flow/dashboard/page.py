"""The page itself, in NiceGUI: jobs at the left, the chosen one at the right, renewed every second."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from fastapi import FastAPI
from nicegui import run, ui

from sage_flow.dashboard import view
from sage_flow.dashboard.view import JobView
from sage_flow.dashboard.watcher import Watcher
from sage_flow.errors import SageFlowError
from sage_flow.executors.running_jobs import Order

__all__ = ["add_page"]

_RENEW_S: Final = 1.0
_LOGS_S: Final = 3.0
_LOG_CHARACTERS: Final = 20_000

_STYLE: Final = """
body { font-size: 14px }
h2 { font-size: 20px; margin: 0 } h4 { font-size: 14px; margin: 8px 0 0 } p { margin: 2px 0 }
table { border-collapse: collapse } th { text-align: left; font-weight: 600; border-bottom: 1px solid #bbb }
th, td { padding: 2px 14px 2px 0; white-space: nowrap; font-variant-numeric: tabular-nums }
tr.chosen { background: #eef3fd } .none { color: #777 } .note { color: #9a5b00 }
.status { font-size: 12px; padding: 1px 8px; border-radius: 8px; background: #ddd }
.status.running { background: #c8e6c9 } .status.failed, .status.gone { background: #f5c6c2 }
.status.restarting { background: #fde7b0 }
pre { white-space: pre-wrap; background: #f6f6f6; padding: 8px; max-width: 1100px } pre.failure { background: #fdecea }
.graph { overflow-x: auto; max-width: 100% } .trouble { background: #fde7b0; padding: 6px 10px }
.legend span { display: inline-block; width: 10px; height: 10px; margin: 0 4px 0 12px }
"""

_LEGEND: Final = (
    '<p class="legend"><span style="background: #d93025"></span>busy: the darker, the busier'
    '<span style="background: #f2a900"></span>waits for slower readers (backpressure)'
    '<span style="background: #7b52c7"></span>waits for services</p>'
)


def add_page(app: FastAPI, watcher: Watcher) -> None:
    """Add the page to an application."""

    @ui.page("/", title="sage_flow")
    def page(job: str | None = None) -> None:
        _Page(watcher, None if job is None else unquote(job))

    ui.run_with(app, title="sage_flow", show_welcome_message=False, tailwind=False)


class _Page:
    """One browser's page."""

    def __init__(self, watcher: Watcher, chosen: str | None) -> None:
        self._watcher = watcher
        self._chosen = chosen
        self._parts: dict[str, ui.html] = {}
        ui.add_css(_STYLE)
        watcher.want()
        self._trouble = _html("trouble")
        self._trouble.set_visibility(False)
        with ui.row(wrap=False).style("width: 100%; gap: 32px"):
            with ui.column().style("min-width: 260px"):
                ui.label(f"sage_flow: {watcher.jobs.title}").style("font-weight: 600")
                self._jobs = _html("jobs")
            with ui.column().style("min-width: 0; flex: 1"):
                self._build_job()
        self._renew()
        ui.timer(_RENEW_S, self._renew)
        ui.timer(_LOGS_S, self._renew_logs)

    def _build_job(self) -> None:
        self._head = _html("head")
        with ui.row():
            self._buttons: dict[Order, ui.button] = {
                "drain": self._button("drain", "Drain", "The sources end; what they have read is processed."),
                "stop": self._button("stop", "Stop", "It makes a last checkpoint and ends, to go on from it later."),
                "cancel": self._button("cancel", "Cancel", "It ends at once and publishes nothing."),
            }
        self._graph = _html("graph")
        ui.html(_LEGEND, sanitize=False)
        names = ("operators", "subtasks", "channels", "services", "checkpoints", "errors", "logs")
        with ui.tabs().props("dense no-caps inline-label") as tabs:
            for name in names:
                ui.tab(name).props(f'data-tab="{name}"')
        with ui.tab_panels(tabs, value="operators", animated=False).style("width: 100%"):
            for name in names:
                with ui.tab_panel(name).style("padding: 8px 0"):
                    self._parts[name] = _html(f"part-{name}")
        self._tabs = tabs

    def _button(self, order: Order, label: str, what: str) -> ui.button:
        with ui.dialog() as dialog, ui.card():
            ui.label(f"{label} this job? {what}")
            with ui.row():

                async def confirm() -> None:
                    dialog.close()
                    await self._end(order)

                ui.button(label, on_click=confirm).props(f'data-confirm="{order}" no-caps')
                ui.button("Leave it", on_click=dialog.close).props("flat no-caps")
        return ui.button(label, on_click=dialog.open).props(f'data-order="{order}" no-caps dense outline')

    async def _end(self, order: Order) -> None:
        key = self._shown()
        if key is None:
            return
        try:
            status = await run.io_bound(self._watcher.jobs.end, key, order)
        except SageFlowError as error:
            ui.notify(str(error), type="negative", multi_line=True, timeout=10_000)
        else:
            ui.notify(f"{order}: the job is {status}")

    def _shown(self) -> str | None:
        """The key of the job that is shown: the chosen one, else the first."""
        return self._chosen if self._chosen is not None else next(iter(self._watcher.views), None)

    def _renew(self) -> None:
        self._watcher.want()
        views, trouble = self._watcher.views, self._watcher.trouble
        self._trouble.set_visibility(bool(trouble))
        if trouble:
            _set(self._trouble, view.notice(f"no answer, so what is shown is not new: {trouble}"))
        key = self._shown()
        _set(self._jobs, view.jobs_table([one.look for one in views.values()], key))
        shown = None if key is None else views.get(key)
        for button in self._buttons.values():
            button.set_enabled(shown is not None and not shown.look.is_over and not trouble)
        if shown is None:
            is_unknown = self._chosen is not None and bool(views)
            _set(
                self._head,
                view.notice("there is no such job here: choose another one" if is_unknown else ""),
            )
            return
        if not shown.look.stops:
            self._buttons["stop"].set_enabled(False)
        self._show(shown)

    def _show(self, shown: JobView) -> None:
        _set(self._head, view.status_line(shown.look))
        _set(self._graph, shown.graph())
        for name, content in (
            ("operators", shown.operators),
            ("subtasks", shown.subtasks),
            ("channels", shown.channels),
            ("services", shown.services),
            ("checkpoints", shown.checkpoints),
            ("errors", shown.errors),
        ):
            if self._tabs.value == name:
                _set(self._parts[name], content())

    async def _renew_logs(self) -> None:
        key = self._shown()
        if self._tabs.value != "logs" or key is None:
            return
        try:
            logs = await run.io_bound(self._watcher.jobs.logs, key)
        except SageFlowError as error:
            _set(self._parts["logs"], view.notice(str(error)))
        else:
            _set(self._parts["logs"], view.logs(logs or {}, _LOG_CHARACTERS))


def _html(name: str) -> ui.html:
    """A part of the page whose content is made by `view`, which escapes what comes from users."""
    return ui.html("", sanitize=False).classes(name)


def _set(part: ui.html, content: str) -> None:
    if part.content != content:
        part.set_content(content)
