"""What an answer must look like: choices, JSON schemas, regular expressions, and the grammars they become."""
