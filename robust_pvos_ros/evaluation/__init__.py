"""Scores of video object segmentation: J and F, datasets in DAVIS layout, the optical-flow baseline.  No ROS."""
