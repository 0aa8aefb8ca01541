"""Pure statistics over paired per-item results."""
