"""The game engine, equal to the public one string by string: PDDL, grammar, logic. Knows nothing of how games are
generated.
"""
