"""Where a stream begins: the methods that add a source, on environments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from sage_flow.errors import PipelineError
from sage_flow.functions import Source
from sage_flow.plan import kinds
from sage_flow.plan.builder import Graph, make_operator
from sage_flow.plan.callables import check_life_cycle
from sage_flow.plan.graph import Tap
from sage_flow.plan.rewriting import check_reads_alone
from sage_flow.runtime.rate_limit import checked_rate
from sage_flow.streams.plain import DataStream
from sage_flow.streams.step_options import SourceOptions, takes

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["HasSources"]

T = TypeVar("T")


class HasSources:
    """A base of environments, in whose graph a source can begin."""

    _graph: Graph

    def from_collection(
        self, items: Sequence[T], *, name: str | None = None, max_rate: float | None = None
    ) -> DataStream[T]:
        """The items of a sequence (list, tuple, range), in order, by one subtask.

        In the threads of a LocalEnvironment the records are the program's own objects, not copies: if an operator
        changes one in place, it changes in `items`, too. In other processes they are copies. `max_rate`: records per
        second at most.
        """
        from sage_flow.connectors import CollectionSource

        return self._from(CollectionSource(items), {"name": name, "max_rate": max_rate})

    def from_iterable(
        self,
        items: Iterable[T] | Callable[[], Iterable[T]],
        *,
        name: str | None = None,
        max_rate: float | None = None,
    ) -> DataStream[T]:
        """The items of any iterable, also an endless one, read by a thread.

        The thread reads at most 1000 records ahead of the source, and the source runs ahead of the next operator: see
        "How far a source runs ahead" in docs/operators.md.

        A function is called where the source runs, to make the iterable: give one where a generator could not
        be pickled, or the pipeline runs more than once. As with `from_collection`, the threads of a LocalEnvironment
        get the program's own objects. `max_rate`: records per second at most; the thread reads ahead what may be given
        in one second.
        """
        from sage_flow.connectors import IterableSource

        return self._from(IterableSource(items), {"name": name, "max_rate": max_rate})

    @takes(SourceOptions)
    def read_text(
        self,
        paths: Any,
        *,
        encoding: str = "utf-8",
        member: str | None = None,
        follow: bool = False,
        **options: Unpack[SourceOptions],
    ) -> DataStream[str]:
        """The lines of text files, without their ends.

        `paths`: one or several paths or globs; each file is read once. Compressed files (gz, bz2, xz, zst) are
        unpacked, and so are zip files; one that holds several files needs `member`. `on_error` is about lines that are
        not in the encoding; the record of a dead letter is (file, line number, text). With `follow` the files grow:
        their complete lines are read as they come, until the job is drained.
        """
        from sage_flow.connectors import TextSource

        return self._from(TextSource(paths, encoding=encoding, member=member, follow=follow), options)

    @takes(SourceOptions)
    def read_csv(
        self,
        paths: Any,
        *,
        delimiter: str = ",",
        fieldnames: list[str] | None = None,
        types: Mapping[str, Callable[[str], Any]] | None = None,
        encoding: str = "utf-8",
        member: str | None = None,
        max_cell_chars: int = 131_072,
        **options: Unpack[SourceOptions],
    ) -> DataStream[dict[str, Any]]:
        """The rows of CSV files as dicts of str, or as `types` (by column) convert them.

        `paths` and `member` as in `read_text`. The first row names the columns unless `fieldnames` does. As a type
        `bool` takes true, yes and 1, or false, no and 0, in any case. `max_cell_chars`: the longest cell. `on_error` is
        about malformed rows; the record of a dead letter is (file, line number, text).
        """
        from sage_flow.connectors import CsvSource

        source = CsvSource(
            paths,
            delimiter=delimiter,
            fieldnames=fieldnames,
            types=types,
            encoding=encoding,
            member=member,
            max_cell_chars=max_cell_chars,
        )
        return self._from(source, options)

    @takes(SourceOptions)
    def read_jsonl(
        self,
        paths: Any,
        *,
        encoding: str = "utf-8",
        member: str | None = None,
        follow: bool = False,
        **options: Unpack[SourceOptions],
    ) -> DataStream[Any]:
        """The values of files that have JSON on each line. `paths` and `member` as in `read_text`.

        `follow` as in `read_text`. `on_error` is about lines that are not JSON; the record of a dead letter is (file,
        line number, text).
        """
        from sage_flow.connectors import JsonlSource

        return self._from(JsonlSource(paths, encoding=encoding, member=member, follow=follow), options)

    @takes(SourceOptions)
    def from_source(self, source: Source[T] | type[Source[T]], **options: Unpack[SourceOptions]) -> DataStream[T]:
        """The records of a Source of your own; each subtask works on a copy of it.

        `on_error` is about what its `next_batch()` returns as `Malformed`; an exception fails the job.
        """
        if isinstance(source, type) and issubclass(source, Source):
            source = source()
        if not isinstance(source, Source):
            raise PipelineError(f"from_source needs a Source, not {source!r}; for an iterable use from_iterable")
        return self._from(source, options)

    def _from(self, source: Source[Any], given: SourceOptions) -> DataStream[Any]:
        operator = make_operator(
            self._graph,
            kinds.SOURCE,
            given.get("name"),
            base=source.default_name,
            on_error=given.get("on_error", "fail"),
        )
        with self._graph.releasing(operator.name):
            rate = checked_rate(given.get("max_rate"), f"{operator.name!r} ({operator.location})")
            check_life_cycle(f"{operator.name!r} ({operator.location})", source)
            check_reads_alone(source, operator, self._graph.nodes)
        options = {} if rate is None else {"max_rate": rate}
        operator = replace(operator, functions=(source,), options=options)
        most = None if source.parallel else 1
        node = self._graph.add(operator, parallelism=given.get("parallelism"), max_parallelism=most)
        return DataStream(self._graph, (Tap(node),))
