"""Pure tensor functions: data before the star, settings after it. torch is the only import."""
