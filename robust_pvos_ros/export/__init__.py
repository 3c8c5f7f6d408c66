"""From a checkpoint to an ONNX file and a TensorRT engine, and the choice among the encoders that work here."""
