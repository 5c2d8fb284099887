"""Job files: Python files with `build(env, options)`, loaded from a path.

A job file is imported once, under the name of the file. Its own folder, the folder above it and the current one go
into `sys.path` directly behind the standard library: so `operators/` beside `jobs/` is found, and a worker process
finds the functions and classes of the job under the same names, while a `json.py` or `queue.py` beside the job never
takes the place of the module that sage_flow, or a library, imports later.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sage_flow.cli.joboptions import TextOptions, parse_options, parse_texts
from sage_flow.cli.search_path import put_behind_standard_library
from sage_flow.errors import PipelineError
from sage_flow.plan.location import short_path
from sage_flow.runtime.failure import add_notes

if TYPE_CHECKING:
    from sage_flow.environment import Environment
    from sage_flow.job import JobHandle, JobResult

__all__ = ["JobFile", "load_job"]

_BUILD = "def build(env, options: Options)"
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class JobFile:
    """A loaded job file.

    `build`, `started` and `report` are called with what their signatures ask for; `options_type` is the frozen
    dataclass of the options of `build`, `TextOptions` where it does not say which, None where it takes no options.
    """

    file: str
    build: Callable[..., Any]
    report: Callable[..., Any] | None = None
    options_type: type[Any] | None = None
    started: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """The job's name: that of the file."""
        return os.path.splitext(os.path.basename(self.file))[0]

    def options(self, given: Sequence[str] = ()) -> Any:
        """Make the options of texts like "top=3"; None where the job has no options. Raises PipelineError."""
        if self.options_type is None:
            if given:
                raise PipelineError(f"{short_path(self.file)} has no options: its build() takes only an environment")
            return None
        if self.options_type is TextOptions:
            return parse_texts(given, owner=short_path(self.file))
        return parse_options(self.options_type, given, owner=short_path(self.file))

    def build_pipeline(self, env: Environment, options: Any) -> None:
        """Call `build`. Raises PipelineError if it has written nothing yet when it returns."""
        _check_done(self.build(*((env,) if self.options_type is None else (env, options))), "build", self.file)

    def begin(self, job: JobHandle, options: Any) -> None:
        """Call `started`, if the file has one: the job runs."""
        if self.started is not None:
            given = (job, options)[: _count_of_parameters(self.started)]
            _check_done(self.started(*given), "started", self.file)

    def tell(self, result: JobResult, options: Any) -> bool:
        """Call `report`, if the file has one; return whether it has."""
        if self.report is None:
            return False
        _check_done(self.report(*(result, options)[: _count_of_parameters(self.report)]), "report", self.file)
        return True


def load_job(path: str | os.PathLike[str]) -> JobFile:
    """Load a job file and check its `build`, `started` and `report`; a file that is loaded already is not run again.

    Raises PipelineError if it is no job file, and whatever the code of the file raises.
    """
    file = os.path.abspath(path)
    shown = short_path(file)
    _check_file(file, shown)
    module = _import(file, shown)
    build, report = getattr(module, "build", None), getattr(module, "report", None)
    if not callable(build):
        raise PipelineError(f"{shown} has no function build: a job file has {_BUILD}, which writes the pipeline")
    _refuse_deferred(build, "build", shown)
    started = getattr(module, "started", None)
    started = started if callable(started) else None
    for function, name, first in ((report, "report", "result"), (started, "started", "job")):
        if function is not None:
            _refuse_deferred(function, name, shown)
            if _count_of_parameters(function) not in (1, 2):
                raise PipelineError(f"{name} in {shown} must take ({first}) or ({first}, options)")
    return JobFile(file, build, report, _options_type(build, module, shown), started)


def _check_file(file: str, shown: str) -> None:
    if os.path.isdir(file):
        raise PipelineError(f"{shown} is a directory: name a job file in it, such as {os.path.join(shown, 'NAME.py')}")
    if not os.path.exists(file):
        raise PipelineError(f"{shown}: no such file; a relative path starts at {os.getcwd()}")
    stem, ending = os.path.splitext(os.path.basename(file))
    if ending != ".py" or "." in stem:
        raise PipelineError(f"{shown} is not a Python file: a job file is named like a module, NAME.py")


def _import(file: str, shown: str) -> ModuleType:
    name = os.path.splitext(os.path.basename(file))[0]
    loaded = sys.modules.get(name)
    if loaded is not None and _is_file(getattr(loaded, "__file__", None), file):
        _extend_search_path(file)  # for workers, whoever has loaded it here
        return loaded
    if loaded is not None or name in sys.stdlib_module_names:
        raise PipelineError(f"{shown} has the name of another module, {name!r}: rename the file")
    code = _compiled(file, shown)
    importlib.invalidate_caches()
    _refuse_other(name, file, shown)  # one that the job's own folder would hide
    _extend_search_path(file)
    spec = _refuse_other(name, file, shown)  # one that hides the job
    if spec is None:
        raise PipelineError(f"{shown} cannot be imported as {name!r}: rename the file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        exec(code, module.__dict__)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, ImportError):
            _explain_hidden_file(error, file)
        raise
    return module


def _compiled(file: str, shown: str) -> Any:
    try:
        with open(file, "rb") as content:
            return compile(content.read(), file, "exec", dont_inherit=True)
    except SyntaxError as error:
        where = shown if error.lineno is None else f"{shown}:{error.lineno}"
        text = f": {error.text.strip()}" if error.text else ""
        raise PipelineError(f"{where} is not valid Python: {error.msg}{text}") from None
    except ValueError as error:  # null bytes, before Python 3.12
        raise PipelineError(f"{shown} is not valid Python: {error}") from None
    except OSError as error:
        raise PipelineError(f"{shown} cannot be read: {error.strerror}") from None


def _extend_search_path(file: str) -> None:
    folder = os.path.dirname(file)
    put_behind_standard_library([folder, os.path.dirname(folder), os.getcwd()])


def _explain_hidden_file(error: ImportError, file: str) -> None:
    """The import may have meant a file beside the job that has the name of a standard module."""
    name = (error.name or "").partition(".")[0]
    hidden = os.path.join(os.path.dirname(file), f"{name}.py")
    if name in sys.stdlib_module_names and os.path.exists(hidden):
        note = f"{short_path(hidden)} cannot be imported, as {name!r} is a module of the standard library: rename it"
        add_notes(error, [note])


def _refuse_other(name: str, file: str, shown: str) -> Any:
    """Return how `name` would be imported now. Raises PipelineError if that is another file."""
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None and not _is_file(spec.origin, file):
        raise PipelineError(f"{shown} has the name of another module, {name!r} ({spec.origin}): rename the file")
    return spec


def _is_file(one: str | None, other: str) -> bool:
    return one is not None and os.path.realpath(one) == os.path.realpath(other)


def _options_type(build: Callable[..., Any], module: ModuleType, shown: str) -> type[Any] | None:
    parameters = list(inspect.signature(build).parameters.values())
    if any(parameter.kind not in _POSITIONAL for parameter in parameters) or len(parameters) not in (1, 2):
        raise PipelineError(f"build in {shown} must take (env) or (env, options): {_BUILD}")
    if len(parameters) == 1:
        return None
    annotation = parameters[1].annotation
    if annotation is inspect.Parameter.empty:
        annotation = getattr(module, "Options", TextOptions)
    if isinstance(annotation, str):
        try:
            annotation = eval(annotation, getattr(build, "__globals__", {}))
        except Exception as error:
            raise PipelineError(f"the annotation {annotation!r} of build in {shown} has no meaning: {error}") from None
    if annotation is TextOptions:
        return TextOptions
    if not isinstance(annotation, type) or not dataclasses.is_dataclass(annotation):
        raise PipelineError(
            f"the options of build in {shown} must be annotated with a frozen dataclass, or not at all: {_BUILD}"
        )
    if not annotation.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise PipelineError(f"{annotation.__name__} in {shown} must be frozen: @dataclass(frozen=True)")
    return annotation


def _refuse_deferred(function: Callable[..., Any], name: str, shown: str) -> None:
    """Raise PipelineError for a function whose call does not run it."""
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise PipelineError(f"{name} in {shown} is an async function, which is not awaited: write def {name}(...)")
    if inspect.isgeneratorfunction(function):
        raise PipelineError(
            f"{name} in {shown} contains yield, so a call does not run its body: write it without yield"
        )


def _check_done(result: Any, name: str, file: str) -> None:
    """The same for what hides behind a decorator or a callable object."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result):
        result.close()
    elif not inspect.isawaitable(result) and not inspect.isasyncgen(result):
        return
    raise PipelineError(
        f"{name} in {short_path(file)} returned a {type(result).__name__}, so its body has not run: {name} must be a"
        " plain function, without async and yield"
    )


def _count_of_parameters(function: Callable[..., Any]) -> int:
    return len(inspect.signature(function).parameters)
