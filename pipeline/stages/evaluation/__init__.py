"""What `ldct evaluate` measures, one module per kind of model."""
