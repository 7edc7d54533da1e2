"""Python's side of Larder. larder.store: its store of named bytes, for other engines."""
