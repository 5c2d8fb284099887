"""The package of what joins keep: the rows of both sides by key, a module for each kind of join."""
