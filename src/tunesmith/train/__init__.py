"""Training: one `build_trainer` per method, over TRL and PEFT."""
