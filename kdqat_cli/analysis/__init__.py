"""What is compared with our results."""
