"""Ternary classifiers in the formats of other engines.

    dense            plain transformers checkpoint, the ternary values multiplied out
    hf               transformers' bitnet layout, 2 bits a weight of a linear
    hf-compressed    transformers with compressed-tensors, 2 bits a weight, embeddings too
    onnx             ONNX Runtime, 2 bits a weight, embeddings too
    onnx-plain       any ONNX runtime, FP32
    gguf, gguf-tq1   llama.cpp, 2.06 or 1.69 bits a weight, embeddings too

Each file has `write`, which makes the folder, and `logits`, which runs it on the engine it is made for; catalogue.py
lists them with what each loses, parity.py says how the two models are compared.
"""
