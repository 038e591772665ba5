"""The architectures of other libraries: their modules in jdl, and the names of their weights."""
