"""The product's main journey without a browser: `elara demo`."""
