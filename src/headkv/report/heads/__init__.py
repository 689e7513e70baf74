"""What head scores look like: tables and figures of score files, and of heads switched off."""
