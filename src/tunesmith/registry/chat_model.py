"""The MLflow model of a package, logged from this file: chat messages in, a chat completion out.

MLflow copies this package's sources beside the model (`code_paths`), so that it loads where
Tunesmith is not installed.
"""

import json
import math
import pathlib
import time
import uuid
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext


class ChatModel(PythonModel):
    """Greedy replies of an adapter on its base."""

    def load_context(self, context: PythonModelContext) -> None:
        """Verify the package and that its base is the right one, load both, and prove the adapter's effect."""
        import torch

        from tunesmith.models.architecture import architecture_of
        from tunesmith.models.loading import load_tokenizer
        from tunesmith.models.packed import prepack
        from tunesmith.models.references import LocalModel
        from tunesmith.registry.verify import verify_package

        package = pathlib.Path(context.artifacts["package"])
        verify_package(package, expected=(context.model_config or {}).get("files"))
        stored = self._read(package / "base.json")
        tokenizer = LocalModel(stored["reference"], package / "tokenizer", stored["sha256"])
        self.tokenizer = load_tokenizer(tokenizer)
        self.model = self._load(package, stored["reference"])
        prepack(self.model, self.model.dtype)
        self.separate = architecture_of(self.model.config).separate
        self.generation = self._read(package / "generation.json")
        self.name = stored["reference"]
        self.torch = torch

    def _load(self, package: pathlib.Path, reference: str) -> Any:
        """The merged weights of a package if it has them, else its adapter on its base."""
        from tunesmith.config.experiment import ModelConfig
        from tunesmith.models.device import place
        from tunesmith.registry import against_base, merged

        placement = place(ModelConfig(base=reference))
        if (package / merged.FOLDER).is_dir():
            return merged.load(package, placement)
        return against_base.load(package).model

    @staticmethod
    def _read(path: pathlib.Path) -> dict[str, Any]:
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> Any:
        """Answer a request, or a table with one request a row; each gives a chat completion."""
        if isinstance(model_input, dict):
            return self._complete(model_input)
        answers = [self._complete(request) for request in model_input.to_dict(orient="records")]
        return answers[0] if len(answers) == 1 else answers

    def _complete(self, request: dict[str, Any]) -> dict[str, Any]:
        prompt = self._prompt([{"role": m["role"], "content": m["content"]} for m in request["messages"]])
        settings = dict(self.generation)
        if is_number(request.get("max_tokens")):
            settings["max_new_tokens"] = int(request["max_tokens"])
        inputs = self.torch.tensor([prompt], device=self.model.device)
        mask = self.torch.ones_like(inputs)
        with self.torch.inference_mode():
            output = self.model.generate(
                input_ids=inputs, attention_mask=mask, **settings, pad_token_id=self.tokenizer.pad_token_id
            )
        reply = output[0, 1 if self.separate else len(prompt) :]  # a decoder of its own begins with a start token
        text = self.tokenizer.decode(reply, skip_special_tokens=True)
        finish = "stop" if len(reply) < settings["max_new_tokens"] else "length"
        return completion(text, model=self.name, prompt=len(prompt), reply=len(reply), finish=finish)

    def _prompt(self, messages: list[dict[str, str]]) -> list[int]:
        """The token ids of messages in the chat template; closed where an encoder reads them."""
        from tunesmith.models.encoder_decoder import closed

        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return closed(ids, self.tokenizer.eos_token_id) if self.separate else ids


def is_number(value: Any) -> bool:
    """Whether a request gave a value: a table shows a missing one as NaN."""
    return isinstance(value, int | float) and not math.isnan(value)


def completion(text: str, *, model: str, prompt: int, reply: int, finish: str) -> dict[str, Any]:
    """A reply in the chat-completions format; `prompt` and `reply` are token counts."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply},
    }


if __name__ != "tunesmith.registry.chat_model":  # run by MLflow as a file, not imported
    mlflow.models.set_model(ChatModel())
