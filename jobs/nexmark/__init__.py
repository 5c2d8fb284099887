"""The Nexmark benchmark: the stream of an auction site, and the canonical form in which results are compared."""
