"""Which tokens: one file a scorer, each with a yaml of its name in `conf/scorer`."""
