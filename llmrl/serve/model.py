"""The served model: a folder with a sequence classifier, its tokens and its scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification

from llmrl.data.chat import Conversation
from llmrl.data.messages import Messages
from llmrl.errors import RecipeError, first_line
from llmrl.models.kinds import nearest_folder
from llmrl.models.loading import DTYPES, load_tokenizer, stop_token_ids

KIND = "ForSequenceClassification"


class ServedModel:
    """A reward model in inference mode, on a GPU if there is one.

    name: the folder's name. max_tokens: the longest text that is accepted. labels: the name of each output.
    activates: whether vLLM would apply an activation unless it is asked not to. Raises RecipeError for a folder that
    holds no trained sequence classifier.
    """

    def __init__(self, folder: Path, *, dtype: Literal["fp32", "bf16"] | None = None, max_tokens: int | None = None):
        self.name = folder.resolve().name
        config = _config(folder)
        self.tokenizer: Any = load_tokenizer(folder)
        self._stops = frozenset(stop_token_ids(self.tokenizer, config))
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = _load(folder, dtype).to(self._device).eval()
        self.labels = [str(config.id2label[place]) for place in range(config.num_labels)]
        self.activates = config.problem_type != "regression"
        longest = getattr(config.get_text_config(), "max_position_embeddings", None) or self.tokenizer.model_max_length
        self.max_tokens = min(int(longest), max_tokens or int(longest))

    def text_ids(self, text: str, *, bare: bool = False) -> list[int]:
        """The tokens of a whole text; special tokens are added unless `bare`, or it begins with the first of them."""
        return self.tokenizer.encode(text, add_special_tokens=not bare and not self._is_begun(text))

    def answer_ids(self, prompt: str, completion: str) -> list[int]:
        """The tokens of a prompt and its completion up to the end-of-sequence token, which is added if it is missing.

        A reward model is trained on completions that end with that token, and scores them there.
        """
        return self._closed(prompt, completion, add_special_tokens=not self._is_begun(prompt))

    def message_ids(self, messages: Messages) -> list[int]:
        """The tokens of a conversation whose last message is the answer, up to the end of its turn.

        Raises ValueError if the chat template refuses the messages, or if the folder has no template.
        """
        if not self.tokenizer.chat_template:
            raise ValueError("the model has no chat template; give texts, or prompt and completion")
        conversation = Conversation(self.tokenizer, messages[:-1])
        return self._closed(conversation.prompt, conversation.answer(messages[-1]), add_special_tokens=False)

    @torch.inference_mode()
    def scores(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """The outputs of each row of tokens, read at its last token: [N][H].

        Rows are padded here and the last place is known by length, so that neither the padding side nor a padding token
        that texts end with changes a score. An encoder reads its own place, as transformers has it.
        """
        lengths = torch.tensor([len(row) for row in rows], device=self._device)
        padding = self.tokenizer.pad_token_id
        padded = [[*row, *[padding] * (int(lengths.max()) - len(row))] for row in rows]
        token_ids = torch.tensor(padded, device=self._device)
        mask = (torch.arange(token_ids.shape[1], device=self._device) < lengths[:, None]).long()
        head = getattr(self._model, "score", None)
        if not isinstance(head, nn.Linear):
            return self._model(input_ids=token_ids, attention_mask=mask).logits.float().tolist()
        hidden: Tensor = self._model.base_model(input_ids=token_ids, attention_mask=mask)[0]
        last = hidden[torch.arange(len(rows), device=self._device), lengths - 1].float()
        bias = None if head.bias is None else head.bias.float()
        return functional.linear(last, head.weight.float(), bias).tolist()

    def _is_begun(self, text: str) -> bool:
        return bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)

    def _closed(self, prompt: str, completion: str, *, add_special_tokens: bool) -> list[int]:
        """The tokens of the whole text, cut behind the completion's first stop token, or closed with one."""
        end = self.tokenizer.eos_token_id
        before = self.tokenizer.encode(prompt, add_special_tokens=add_special_tokens)
        if before and before[-1] == end and not prompt.endswith(self.tokenizer.eos_token):
            before.pop()
        whole = self.tokenizer.encode(prompt + completion, add_special_tokens=add_special_tokens)
        if whole[: len(before)] != before:  # the tokens of a sampled completion never merge with the prompt's
            whole = [*before, *self.tokenizer.encode(completion, add_special_tokens=False)]
        ends = [place for place in range(len(before), len(whole)) if whole[place] in self._stops]
        return whole[: ends[0] + 1] if ends else [*whole, end]


def _config(folder: Path) -> Any:
    """The folder's config; raises RecipeError unless it says that the model is a sequence classifier."""
    if not (folder / "config.json").is_file():
        guess = nearest_folder(folder)
        hint = f"; did you mean '{guess}'?" if guess else ""
        raise RecipeError(f"FOLDER: '{folder}' has no config.json; expected the folder of a trained reward model{hint}")
    try:
        config = AutoConfig.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise RecipeError(f"FOLDER: the config of '{folder}' cannot be read: {first_line(error)}") from None
    architectures = config.architectures or ["none"]
    if not any(name.endswith(KIND) for name in architectures):
        raise RecipeError(
            f"FOLDER: '{folder}' holds {', '.join(architectures)}, expected a reward model, whose architecture ends "
            f"with {KIND}; a language model has no trained score head"
        )
    return config


def _load(folder: Path, dtype: Literal["fp32", "bf16"] | None) -> nn.Module:
    """The model in `dtype`, or in that of its weights; raises RecipeError for weights that the folder lacks."""
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            str(folder), dtype=DTYPES[dtype] if dtype else "auto", output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"FOLDER: cannot load '{folder}' as a reward model: {first_line(error)}") from None
    if missing := sorted(found["missing_keys"]):
        raise RecipeError(f"FOLDER: the weights of '{folder}' lack {', '.join(missing[:3])}; is its training finished?")
    return model
