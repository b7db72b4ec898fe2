"""How much the metric suffers when a layer is pruned by itself: measuring it and keeping it."""
