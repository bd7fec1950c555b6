"""From published latencies and counts to a profile's coefficients, judged on held-out models."""
