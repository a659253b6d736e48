"""How a module's weights, gradients and averages are spread over processes."""
