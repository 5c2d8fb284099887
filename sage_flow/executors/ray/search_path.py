"""Where the modules of a job are, for processes on other nodes.

The driver's folders are there under another path - Ray unpacks the working directory of a job somewhere on each node,
and makes that the current folder - or under the same one, on the driver's own node.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

__all__ = ["SearchPath"]


@dataclass(frozen=True)
class SearchPath:
    """`folders`: what is in front of the driver's `sys.path`. `base`: the folder that travels with the job, if any."""

    base: str = ""
    folders: tuple[str, ...] = ()

    @classmethod
    def of_this_process(cls, base: str | None = None) -> SearchPath:
        """The folders of the job files that are loaded here. `base`: where it is not the current folder."""
        from sage_flow.jobfile import search_path

        return cls(os.path.abspath(base or "."), tuple(search_path()))

    def extend(self) -> None:
        """Put them in front of the `sys.path` of this process, as far as it has them."""
        found = [place for folder in self.folders if (place := self._here(folder)) is not None]
        sys.path[:] = found + [entry for entry in sys.path if entry not in found]

    def _here(self, folder: str) -> str | None:
        relative = os.path.relpath(folder, self.base)
        places = (
            [folder] if relative.startswith("..") else [os.path.normpath(os.path.join(os.getcwd(), relative)), folder]
        )
        return next((place for place in places if os.path.isdir(place)), None)
