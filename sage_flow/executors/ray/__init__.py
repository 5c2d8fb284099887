"""Ray: every subtask in an actor, a job master that leads them, and the handles by which other processes reach it.

Ray places, names and watches the actors; records and calls go directly between them (see `executors/exchange.py`).

    environment --> client.submit --> records (the plan, in Ray's GCS) --> master (a detached actor)
                                                                             attempt --> worker actors
"""
