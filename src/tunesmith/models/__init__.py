"""Base models and adapters: from a reference to weights in memory, on a device that is there."""
