"""Eight corruptions of video with slow changes over time; NumPy and torch only."""
