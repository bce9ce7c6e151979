"""Exports ternary classifiers to the formats of other engines.

    dense            plain transformers checkpoint, with the ternary weights as floats
    hf               transformers' bitnet layout, 2 bits per weight of a linear
    hf-compressed    transformers with compressed-tensors, 2 bits per weight, embeddings included
    onnx             ONNX Runtime, 2 bits per weight, embeddings included
    onnx-plain       any ONNX runtime, FP32
    gguf, gguf-tq1   llama.cpp, 2.06 or 1.69 bits per weight, embeddings included

Each file has `write`, which makes the folder, and `logits`, which runs it on its engine. catalogue.py lists the formats
and what each loses; parity.py compares the exported model with the student.
"""
