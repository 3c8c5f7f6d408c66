"""The demo: a camera, a client and a recorder around the segmentation node, each a process of its own."""
