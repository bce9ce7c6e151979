"""The model card: README.md, which the model hub shows; the hub's search uses its header.

`export` writes a card into the folder of the model. DVC needs equal bytes from equal inputs, so this card has only
facts that follow from the inputs of the export: the score of one student, and no times. `kdqat card` writes a card
beside that folder, with the metrics of all seeds and with measured times.

A card has no license, because kdqat does not know it. After a user edits a card, kdqat does not overwrite it
(store/seal.py).
"""

import re
from collections.abc import Iterable
from statistics import stdev

import yaml
from huggingface_hub import EvalResult, ModelCardData

from kdqat_cli.cards.facts import Facts, Score
from kdqat_cli.record import Record
from kdqat_cli.store.seal import sealed
from kdqat_cli.tasks.task import Hosted

_METRICS = {
    "matthews": "matthews_correlation",
    "macro_f1": "f1",
    "micro_f1": "f1",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Our name of a metric → the hub's name, if it differs."""
_ASKED = {"image-classification": "picture.png", "translation": "A sentence."}
"""The hub's name of a kind of task → an example of input for `kdqat predict`; other kinds get a text."""
_PACKED = """\
from kdqat_cli.serving import load

model = load(folder)
print(model(text))
"""
_PACKED_IN_TRANSFORMERS = """\
import kdqat_cli  # registers the packed format with transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

model = AutoModelForSequenceClassification.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
print(model(**tokenizer(*texts, return_tensors="pt")).logits.softmax(-1))
"""
_PACKED_NETWORK = """\
from pathlib import Path

from kdqat_cli.packing.network import load_network

model, record = load_network(Path(folder, "kdqat.safetensors"))  # a torch module in eval mode
"""


def card(facts: Facts) -> str:
    """The text of a model card."""
    parts = [
        f"# {facts.name}\n\n{_about(facts)}",
        f"## Scores\n\n{_scores(facts)}",
        f"## Size\n\n{_size(facts)}",
        *([f"## Speed\n\n{_speed(facts)}"] if facts.speed else []),
        f"## Use\n\n{_use(facts)}",
        f"## Limits\n\n{_limits(facts)}",
        f"## Recipe\n\n{_recipe(facts)}",
        f"## Sources\n\n{_sources(facts)}",
    ]
    return sealed(f"---\n{_header(facts)}\n---\n", "\n" + "\n\n".join(parts) + "\n")


def _header(facts: Facts) -> str:
    hosted = facts.hosted
    tags = ["kdqat", "quantization", *(["knowledge-distillation"] if facts.record.loss else [])]
    results = _results(facts, hosted)
    data = ModelCardData(
        language=hosted.languages or None,
        tags=[*tags, facts.weights, facts.format],
        datasets=[hosted.dataset] if hosted.dataset else None,
        base_model=facts.base,
        library_name=facts.library,
        pipeline_tag=hosted.pipeline,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    if facts.base:
        data["base_model_relation"] = "quantized"
    text: str = data.to_yaml(line_break="\n")
    return text.strip("\n")


def _results(facts: Facts, hosted: Hosted) -> list[EvalResult]:
    """The scores for the header; none if another model was scored, or if they are not to be quoted."""
    task, measured = facts.task, facts.measured
    if task is None or measured is None or not measured.own or facts.record.not_to_be_quoted:
        return []
    named = [score for score in measured.scores if score.name in task.metrics] or measured.scores
    return [
        EvalResult(
            task_type=hosted.pipeline or task.kind,
            dataset_type=hosted.dataset or task.name,
            dataset_name=task.title,
            dataset_config=hosted.config,
            dataset_split=hosted.split,
            metric_type=_METRICS.get(name := task.metric if score.name == "score" else score.name, name),
            metric_name=name if name == "perplexity" else f"{name}, percent",
            metric_value=round(score.mean, 4),
            metric_args=_spread(score, measured.seeds),
        )
        for score in named
    ]


def _spread(score: Score, seeds: list[int | None]) -> dict[str, object] | None:
    known = [seed for seed in seeds if seed is not None]
    if not known:
        return None
    return {"seeds": known} | ({"std": round(stdev(score.values), 4)} if len(score.values) > 1 else {})


def _about(facts: Facts) -> str:
    record, made = facts.record, facts.record.quantization
    what = "distilled from its full-precision teacher" if facts.record.loss else "quantised without any training"
    lead = f"A student model, {what} with kdqat and stored in the format `{facts.format}`."
    if record.not_to_be_quoted:
        lead = f"**A smoke run, not to be quoted: {record.not_to_be_quoted}.**\n\n{lead}"
    title = f"{record.task}: {facts.task.title}" if facts.task else record.task
    rows: list[tuple[str, object]] = [("task", title), ("labels", ", ".join(record.labels or []) or None)]
    rows += [("a text has each label whose probability is at least", record.threshold)]
    rows += [("base model", facts.base or _folder(record.encoder)), ("network", record.network)]
    rows += [("distillation loss", facts.record.loss), ("seed", record.seed)]
    rows += [("weights", facts.weights), ("activations", made.activations if made else None)]
    rows += [("input", _input(record)), ("loaded by", facts.engine or "kdqat")]
    return f"{lead}\n\n{_table(['', ''], [row for row in rows if row[1] is not None])}"


def _folder(encoder: str | None) -> str | None:
    """The last name of a local folder; its path on one machine is no use to readers."""
    return None if encoder is None else f"{encoder.rstrip('/').rpartition('/')[2]}, a local folder"


def _input(record: Record) -> str | None:
    if record.rows_kind != "text":
        return record.rows_kind
    rows = "pairs of texts" if record.pairs else "texts"
    return rows if record.max_length is None else f"{rows}, cut to {record.max_length} tokens"


def _scores(facts: Facts) -> str:
    measured, task = facts.measured, facts.task
    if measured is None:
        return "Not measured yet; `kdqat evaluate` measures them."
    names = {"score": f"score ({task.metric})" if task else "score"}
    rows = [(names.get(score.name, score.name), score.text) for score in measured.scores]
    seeds = ", ".join("-" if seed is None else str(seed) for seed in measured.seeds)
    percent = (
        "in percent, except the perplexity"
        if any(score.name == "perplexity" for score in measured.scores)
        else "in percent"
    )
    text = f"Scores of {measured.whose}, on the {facts.hosted.split} rows, {percent}"
    many = f"; mean ± sample standard deviation over the seeds {seeds}" if len(measured.seeds) > 1 else ""
    notes = [f"{text}{many}."]
    if facts.record.loss is not None:
        notes.append("Each training kept its evaluation with the best score on these rows, so the score is optimistic.")
    if others := facts.task.splits[1:] if facts.task and len(rows) > 1 else []:
        notes.append(f"A metric that begins with the name of another split ({', '.join(others)}) was measured on it.")
    return f"{' '.join(notes)}\n\n{_table(['metric', 'value'], rows)}"


def _size(facts: Facts) -> str:
    size = facts.size
    rows: list[tuple[str, object]] = [
        ("parameters", f"{size['parameters']:,}"),
        (f"bytes of `{facts.file}`", f"{size['bytes']:,}"),
        ("bits per parameter", f"{size['bits_per_weight']:.2f}"),
        ("FP32 / size", f"{size['ratio_to_fp32']:.2f}"),
    ]
    return _table(["", ""], rows)


def _speed(facts: Facts) -> str:
    columns = list(facts.speed[0])
    rows = [tuple(row.get(column) for column in columns) for row in facts.speed]
    return f"Measured with `kdqat bench` on {facts.machine}.\n\n{_table(columns, rows)}"


def _use(facts: Facts) -> str:
    record = facts.record
    texts = ["A text.", *(["The second text of a pair."] if record.pairs else [])]
    given = f'folder, texts = "model", {texts!r}'.replace("'", '"')
    if facts.format != "packed":
        needed = " ".join(facts.packages)
        install = f"```sh\npip install {needed}\n```\n\n" if needed else ""
        code = _program(record, facts.usage, given) if facts.usage else f"Load the folder with {facts.engine}."
        return f"{install}`folder` is the folder with the files of this model.\n\n{code}{_meaning(record)}"
    if record.rows_kind != "text":
        asked = _ASKED.get(facts.hosted.pipeline or "")
        predict = f'kdqat predict model "{asked}"\n' if asked else ""
        evaluate = f"```sh\n{predict}kdqat evaluate model --task {record.task}\n```"
        program = _program(record, _PACKED_NETWORK, 'folder = "model"')
        return f"{evaluate}\n\nIn Python:\n\n{program}"
    text = f'folder, text = "model", {tuple(texts) if record.pairs else texts[0]!r}'.replace("'", '"')
    quoted = " ".join(f'"{text}"' for text in texts)
    unpacked = _program(record, _PACKED_IN_TRANSFORMERS, given)
    return "\n\n".join(
        [
            f"`model` is the folder with the files of this model.\n\n```sh\nkdqat predict model {quoted}\n```",
            f"In Python, without torch:\n\n{_program(record, _PACKED, text)}",
            f"With transformers, which unpacks the weights to floats:\n\n{unpacked}{_meaning(record)}",
        ]
    )


def _meaning(record: Record) -> str:
    """What the logits of a multi-label model mean."""
    if record.threshold is None:
        return ""
    return (
        "\n\nThe probability of a label is the sigmoid of its logit. A text has each label whose probability is at "
        f"least {record.threshold:g}, and may have none."
    )


def _program(record: Record, text: str, given: str) -> str:
    """A program as Markdown code; the line with its values comes after its imports.

    The probabilities are those of the record's kind of model.
    """
    imports, rest = text.rsplit("\n\n", 1)
    if record.threshold is not None:
        rest = rest.replace("softmax(-1)", "sigmoid()")
    return f"```python\n{imports}\n\n{given}\n{rest}```"


def _limits(facts: Facts) -> str:
    record, made = facts.record, facts.record.quantization
    title = f"task {record.task}" if record.task else "its task"
    limits = [f"It was trained and scored only on the rows of {title}. Nothing is known about other texts or images."]
    if record.rows_kind == "text" and record.max_length is not None:
        limits.append(f"Rows are cut to {record.max_length} tokens.")
    if facts.loses:
        limits.append(f"Its numbers are not exactly the student's: {facts.loses}.")
    if facts.compared:
        limits.append(facts.compared)
    if facts.format == "packed":
        if made is not None and (record.rows_kind, made.weights, made.activations) == ("text", "ternary", "int8"):
            limits.append("Logits are bit-equal only on the same kernel; another processor can change a few labels.")
        else:
            limits.append("torch computes it from the unpacked weights, so only the file is small; it runs no faster.")
    limits.append("kdqat does not know the license: see the licenses of the base model and of the data.")
    return "\n".join(f"- {limit}" for limit in limits)


def _recipe(facts: Facts) -> str:
    record = facts.record
    plain = {} if record.quantization is None else {"quantization": record.quantization.model_dump()}
    values = record.settings or plain
    return f"```yaml\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}```"


def _sources(facts: Facts) -> str:
    rows: list[tuple[str, object]] = [(name, digest) for name, digest in facts.record.sources.items() if digest]
    versions = ", ".join(f"{name} {version}" for name, version in facts.record.versions.items())
    made = f"\n\nMade with {versions}." if versions else ""
    return f"{_table(['what', 'sha256'], [*rows, (facts.file, facts.digest)])}{made}"


def _table(columns: list[str], rows: Iterable[tuple[object, ...]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    return re.sub(r"\s+", " ", text).replace("|", r"\|")
