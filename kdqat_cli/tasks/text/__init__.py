"""Text tasks: tokenised rows, classifiers, and their scores."""
