"""The `vqa` command."""
