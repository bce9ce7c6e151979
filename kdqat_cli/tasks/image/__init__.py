"""Image tasks: pictures of one size, in classes."""
