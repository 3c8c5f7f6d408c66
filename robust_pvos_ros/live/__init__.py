"""Bags and the running system: recording of topics, playing to a node.  Needs ROS."""
