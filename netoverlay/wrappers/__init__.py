"""What every remote call is wrapped in, each a Backend around a Backend."""
