"""Training: data, the loop, evaluation, experiment configurations, and the rendered scenes."""
