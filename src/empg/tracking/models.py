"""A policy as an MLflow model that `mlflow.pyfunc` loads as a chat model and `mlflow.transformers` as a pipeline."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empg.files import read_json
from empg.schema import EVALUATED_STEPS, read_table
from empg.tracking.database import uri

if TYPE_CHECKING:
    from mlflow.entities import Run

    from empg.tracking.tracker import Tracker

LARGEST_MODEL = 2 * 1024**3  # bytes; MLflow copies each model, so runs with larger ones only name their folder
SOURCE = ("mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit", "mlflow.source.git.branch")


def log_policy(tracker: Tracker, run: Run, folder: Path, evaluation: Path) -> None:
    """Log the policy of the stage in ``folder`` under its run's name, unless it is logged or too large.

    The first conversation of its ``evaluation`` is the input example.
    """
    client, config = tracker.client, read_json(evaluation / "manifest.json")["config"]
    folder /= "model"
    whole = {output.model_id for output in run.outputs.model_outputs} if run.outputs else set()
    for model in tracker.models(run):
        if model.model_id not in whole or str(model.status) != "READY":
            client.delete_logged_model(model.model_id)  # left over from an attempt that was killed
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    client.set_tag(run.info.run_id, "model", str(folder))
    if size > LARGEST_MODEL or tracker.models(run):
        return
    example = input_example(evaluation, config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow and transformers warn about their own code
        model_id = _log_pipeline(tracker, run, folder, example)
    # MLflow would say where it was logged from. The model is of the code that trained it.
    of_run = client.get_run(run.info.run_id).data.tags
    own = {key: of_run.get(key, "") for key in SOURCE}
    client.set_logged_model_tags(
        model_id, own | {"mlflow.note.content": description(run.info.run_name, model_id, folder, example)}
    )


def input_example(evaluation: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The opening of the evaluation's first episode as a chat request, with the policy's limit of an answer."""
    first = read_table(evaluation / "steps.parquet", EVALUATED_STEPS, ("observation",)).row(0, named=True)
    system = [{"role": "system", "content": config["system"]}] if config["system"] else []
    messages = [*system, {"role": "user", "content": first["observation"]}]
    return {"messages": messages, "max_tokens": config["sampling"]["max_response"]}


def description(name: str, model_id: str, folder: Path, example: dict[str, Any]) -> str:
    """What the model expects and how to call it, in Markdown."""
    opening = example["messages"][0]["content"] if example["messages"][0]["role"] == "system" else "none"
    request = json.dumps(example, indent=2, ensure_ascii=False)
    return (
        f"The policy of the run `{name}`, from `{folder}`.\n\n"
        f"**Prompt.** The system message: {opening}. Then each observation of the environment is a user message, and "
        "each answer of the policy, `<think>…</think><action>…</action>`, is an assistant message. The tokenizer's "
        "chat template renders them.\n\n"
        f"```python\nimport mlflow\n\nrequest = {request}\n"
        f'answer = mlflow.pyfunc.load_model("models:/{model_id}").predict(request)\n'
        'print(answer[0]["choices"][0]["message"]["content"])\n'
        f'pipeline = mlflow.transformers.load_model("models:/{model_id}")\n```'
    )


def _log_pipeline(tracker: Tracker, run: Run, folder: Path, example: dict[str, Any]) -> str:
    """Log the model and return its id."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # MLflow would ask the hub for a model card
    import mlflow.transformers
    import transformers

    logging.getLogger("mlflow").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    mlflow.set_tracking_uri(uri(tracker.root))
    pipeline = transformers.pipeline("text-generation", model=str(folder), device="cpu")
    versions = [f"{library}=={release(library)}" for library in ("torch", "transformers")]
    with mlflow.start_run(run_id=run.info.run_id):
        logged = mlflow.transformers.log_model(
            pipeline, name=run.info.run_name, task="llm/v1/chat", input_example=example, pip_requirements=versions
        )
    return str(logged.model_id)


def release(name: str) -> str:
    """The version of an installed library without the local part of a build (+cpu)."""
    from importlib.metadata import version

    return version(name).split("+", maxsplit=1)[0]
