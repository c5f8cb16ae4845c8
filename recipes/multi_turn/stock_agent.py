"""An agent of the openai client, which knows nothing of llmrl: a model looks up an item, and says whether it is there.

user       c             the item that is wanted
assistant  c             the item that the model looks up
user       n             whether there is one, or ! for what is no item
assistant  n             the answer
"""

from __future__ import annotations

import random
from typing import Any

from openai import OpenAI

ITEMS = "abcd"
SHARED = OpenAI(base_url="http://127.0.0.1", api_key="none", max_retries=0)


def rows(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows with the item that is wanted, and whether there is one of each; the question names the shop as well."""
    draw = random.Random(seed)
    found = []
    for number in range(size):
        wanted, stock = draw.choice(ITEMS), {item: draw.choice("yn") for item in ITEMS}
        row = {"question": f"{wanted}{seed}{number}", "answer": stock[wanted]}
        found.append(row | {"wanted": wanted, "stock": stock})
    return found


def shop(base_url: str, api_key: str, wanted: str, stock: dict[str, str]) -> dict[str, Any]:
    """One visit: what the model answered in the end, and a reward for looking up the right item."""
    client = SHARED.with_options(base_url=base_url, api_key=api_key)  # its connections are shared by all episodes

    def asked(messages: list[Any]) -> str:
        found = client.chat.completions.create(model="policy", messages=messages, max_tokens=1)
        return found.choices[0].message.content or ""

    messages = [{"role": "user", "content": wanted}]
    item = asked(messages)
    messages += [{"role": "assistant", "content": item}, {"role": "user", "content": stock.get(item, "!")}]
    return {"answer": asked(messages), "reward": 0.5 * (item == wanted)}


def right_answer(completion: str, answer: str) -> bool:
    """Whether the answer says if there is one of the item that was wanted."""
    return completion == answer
