"""From chat to tokens and back: templates, special tokens, grammars, detokenizing."""
