"""How much of each group goes: from a ratio, from patterns, or from sensitivity curves and a
budget."""
