"""Bags: reading and writing without ROS, recording and playing with it."""
