"""Image classification: pictures of one size, each with a class."""
