"""How many: one file an allocator, each with a yaml of its name in `conf/allocator`."""
