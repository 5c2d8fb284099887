"""Ray: every subtask in an actor, a job master that leads them, and the handles by which others reach it.

Ray places, names and watches; records and calls go directly between the processes (see `executors/exchange.py`).

    environment --> client.submit --> records (the plan, in Ray's GCS) --> master (a detached actor)
                                                                             attempt --> worker actors
"""
