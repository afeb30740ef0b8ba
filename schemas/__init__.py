"""What the data look like: source declarations, table schemas and identifiers. Knows neither Spark nor torch."""
