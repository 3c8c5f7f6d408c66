"""Procedural video: labelled training clips, rendered in torch, and the street scene of the demo.  No ROS."""
