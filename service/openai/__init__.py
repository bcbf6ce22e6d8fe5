"""OpenAI's completions, for models of text."""
