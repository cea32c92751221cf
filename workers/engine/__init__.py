"""The loaded model behind `submit(prompt) -> future`; catalog.make_engine makes one."""
