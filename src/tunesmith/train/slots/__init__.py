"""Many adapters trained at once on one frozen base, each as if it were alone.

A slot is one adapter with its optimiser, schedule and place in its data. The rows of several slots run
through the base together as one flat row of tokens; the low-rank products, the loss, the clipping and the
optimiser are each slot's own, so that what a slot learns does not depend on its neighbours.
"""
