"""A topic as small as can be."""
