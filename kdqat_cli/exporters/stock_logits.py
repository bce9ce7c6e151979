"""A separate program that computes the logits of a folder with stock transformers. It imports nothing of kdqat.

python stock_logits.py FOLDER ROWS.npz LOGITS.npz
"""

import sys

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification


def main(folder: str, rows: str, out: str) -> None:
    """Loads FOLDER, runs the batches `<index>.<input>` of ROWS, and writes `<index>` → logits (B, labels)."""
    model, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    wrong = {key: sorted(names) for key, names in info.items() if names}
    if wrong:
        sys.exit(f"the tensors do not fit the architecture: {wrong}")
    if any(name.split(".")[0] == "kdqat_cli" for name in sys.modules):
        sys.exit("kdqat was imported")
    batches: dict[str, dict[str, torch.Tensor]] = {}
    with np.load(rows, allow_pickle=False) as arrays:
        for key in arrays:
            index, name = key.split(".")
            batches.setdefault(index, {})[name] = torch.from_numpy(arrays[key])
    with torch.no_grad():
        logits = {index: model(**batch).logits.float().numpy() for index, batch in batches.items()}
    np.savez(out, allow_pickle=False, **logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
