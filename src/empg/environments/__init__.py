"""Tasks and how they are played. Imports no torch: nothing here knows what a policy is."""
