"""The web console: a node of its own that lets a person see what the segmentation node sees, and point at things."""
