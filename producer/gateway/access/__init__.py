"""Who may do what, and how much: API keys, callers, rate limits and budgets."""
