"""Training of the compact model and of adapters."""
