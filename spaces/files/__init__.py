"""From a trained model to the exported file: ONNX, quantization and its preparation."""
