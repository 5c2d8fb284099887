"""A source that waits for what the rest of the job does, in whatever process: by files in a folder."""

from pathlib import Path

from sage_flow import END, IDLE, Source


class Wait:
    """The source is idle until `count` different things were noted."""

    def __init__(self, count):
        self.count = count


class WaitingSource(Source):
    """Gives the steps between two `Wait` as one batch."""

    bounded = True

    def __init__(self, folder, steps):
        self.folder = str(folder)
        self.steps = list(steps)

    def next_batch(self):
        batch = []
        while self.steps and not isinstance(self.steps[0], Wait):
            batch.append(self.steps.pop(0))
        if batch:
            return batch
        if not self.steps:
            return END
        if len(list(Path(self.folder).iterdir())) >= self.steps[0].count:
            del self.steps[0]
        return IDLE


def note(folder, name):
    """Note that something has happened."""
    (Path(folder) / str(name).replace("/", "_")).touch()
