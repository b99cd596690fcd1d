"""Self-configuration: measure a data set, decide everything else from the measurement."""
