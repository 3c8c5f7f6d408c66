"""robust_pvos_ros: promptable video object segmentation for ROS 2, robust to weather and sensor faults."""

__version__ = '0.1.0'
