"""ALFWorld: household tasks in text, see ``docs/alfworld.md``. Imports no other environment."""
