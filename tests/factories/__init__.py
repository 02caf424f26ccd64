"""The one set of synthetic data of the suite."""
