"""The tracker: NumPy, torch and sam2, no ROS."""
