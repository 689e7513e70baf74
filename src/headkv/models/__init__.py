"""Models: what a yaml says of one, loading it with its tokenizer, and encoding prompts."""
