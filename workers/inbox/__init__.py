"""Jobs from programs in other languages: entries of a Redis stream become jobs in the ledger."""
