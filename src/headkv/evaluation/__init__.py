"""From settings to rows: every missing cell of every example, answered and measured."""
