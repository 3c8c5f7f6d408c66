"""Procedural video: labelled training clips and the street scene, rendered in torch.  No ROS."""
