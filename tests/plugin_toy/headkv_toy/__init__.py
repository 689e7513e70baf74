"""A toy plug-in: entry points name this package, whose conf/ folder is laid out as headkv's."""
