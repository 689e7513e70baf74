"""From result files to tables and figures. Reads what lies on disk; never loads a model."""
