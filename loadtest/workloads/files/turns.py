"""How data sets and exports write the messages of a conversation: who speaks under which name, and what they say.

A conversation is a list of messages, of texts or of pairs, or a tree of which the exports of chat programs keep every branch:
nodes by name or in a list, each of which names its parent, or replies that stand in what they reply to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from loadtest.workloads.messages import is_message, text_of

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "ai", "bot", "chatbot", "model"), "assistant"),
    **{role: role for role in ("system", "developer", "tool")},
}
SENT_ROLES = {*ROLES.values(), "function"}  # that chat APIs know
IN_TURN = ("user", "assistant")  # who says the texts of a conversation that do not say it
SPEAKERS = ("role", "sender", "from", "author")  # names of who speaks
SPEAKS = (*SPEAKERS, "type", "isCreatedByUser")  # and what else tells it, in LangChain's and LibreChat's messages
SAID = ("value", "text", "content", "parts")  # names of what is said, the plainest first
PAIRS = (
    ("input", "output"),
    ("question", "answer"),
    ("prompt", "response"),
    ("human", "assistant"),
    ("user", "assistant"),
)
PARENTS = ("parent", "parentId", "parentMessageId", "parent_message_uuid")  # of a node in a tree of messages
NODES = ("id", "messageId", "uuid")  # names of such a node
# names, beside the tree, of the node in which the branch ends that was shown last
LEAVES = ("current_node", "currentId", "current_leaf_message_uuid")
REPLIES = ("children", "replies")  # of a message that holds what follows it


def usual_role(role: str) -> str:
    """Return a role in the words of chat APIs; one that they have no word for as it is."""
    return ROLES.get(role.strip().lower(), role)


def speaker_of(value: Mapping[str, Any]) -> str:
    """Return who speaks in a message of any shape, in small letters; empty where it does not say so."""
    if isinstance(users := value.get("isCreatedByUser"), bool):  # whose models send under their own names
        return IN_TURN[not users]
    found = (value[one] for one in SPEAKERS if one in value)
    names = (one.get("role") if isinstance(one, dict) else one for one in found)
    kind = value.get("type")  # in others something else
    said = next(
        (name for name in names if isinstance(name, str)), kind if isinstance(kind, str) and kind in ROLES else ""
    )
    return said.strip().lower() or ("user" if "parts" in value else "")  # Gemini's requests need not say it


def is_usual(message: Any) -> bool:
    """Whether a message is written as chat APIs take it; one of an Assistants thread is not."""
    return is_message(message) and isinstance(message.get("role"), str) and not _holds_values(message.get("content"))


def _holds_values(content: Any) -> bool:
    """Whether the texts of parts are objects, as in threads of OpenAI's Assistants."""
    return isinstance(content, list) and any(
        isinstance(part, dict) and isinstance(part.get("text"), dict) for part in content
    )


def plain_part(part: Any) -> Any:
    """Return a part of a message with its text under `text`, where it is text that stands elsewhere: `content`, `value`."""
    if not isinstance(part, dict) or part.get("type", "text") != "text" or isinstance(part.get("text"), str):
        return part
    held = part["text"] if isinstance(part.get("text"), dict) else part
    said = next((held[one] for one in ("value", "content") if isinstance(held.get(one), str)), None)
    return part if said is None else {"type": "text", "text": said}


def is_turn(value: Any) -> bool:
    """Whether this is a message, in whatever shape."""
    return (
        isinstance(value, dict) and bool(speaker_of(value)) and (is_usual(value) or any(one in value for one in SAID))
    )


def is_conversation(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    """Whether this is a list of messages, in whatever shape."""
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def are_texts(given: Any) -> bool:
    return isinstance(given, list) and bool(given) and all(isinstance(one, str) for one in given)


def as_message(turn: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return a message of another shape as chat APIs take it; None where it lacks who speaks or what is said."""
    speaker, name = speaker_of(turn), next((one for one in SAID if one in turn), None)
    return {"role": usual_role(speaker), "content": _text_in(turn[name])} if speaker and name is not None else None


def spoken_in_turn(given: Any, name: str) -> Any:
    """Return a conversation as its messages, where it is pairs, or texts that do not say who speaks.

    Texts are the user's and the model's in turn, as in LIMA; under `turns` they stay texts: the user's alone, as in MT-Bench. Objects
    under `messages` are meant for a chat API, and have to say it.
    """
    if not isinstance(given, list) or not given:
        return given
    silent = ("", "user") if name == "turns" else ("",)
    if name != "messages" and all(isinstance(one, dict) and speaker_of(one) in silent for one in given):
        pairs = next((pair for pair in PAIRS if all(one.keys() >= set(pair) for one in given)), None)
        if pairs is not None:
            said = (("system", "system"), *zip(IN_TURN, pairs, strict=True))
            return [{"role": role, "content": one[key]} for one in given for role, key in said if key in one]
        texts = [next((one[key] for key in SAID if isinstance(one.get(key), str)), None) for one in given]
        given = given if None in texts else texts
    if name == "turns" or not are_texts(given):
        return given
    return [{"role": IN_TURN[i % 2], "content": text} for i, text in enumerate(given)]


def is_tree(value: Any) -> bool:
    """Whether this is a tree of messages: nodes by name, each of which names its parent."""
    nodes = value.values() if isinstance(value, dict) else ()
    return bool(nodes) and all(isinstance(one, dict) and any(key in one for key in PARENTS) for one in nodes)


def in_order(given: Any, beside: Mapping[str, Any]) -> Any:
    """Return the messages of a conversation in the order in which they were said; anything else as it is.

    Of a tree they are those from its root to the leaf that is named beside it, else to its last node.
    """
    if isinstance(given, list) and len(given) == 1 and isinstance(given[0], list):
        given = given[0]
    if is_turn(given):
        given = [given]
    if isinstance(given, dict) and given.get("object") == "list":  # as OpenAI's API sends one
        given = given.get("data")
    if is_conversation(given) and _newest_first([one.get("created_at") for one in given]):
        given = given[::-1]
    last = given[-1] if isinstance(given, list) and given else None
    if isinstance(last, dict) and not last.keys().isdisjoint((*PARENTS, *REPLIES)) and is_conversation(given):
        given = _with_replies(given)
        named = {str(next((one[key] for key in NODES if key in one), None)): one for one in given}
        given = named if len(named) == len(given) and is_tree(named) else given
    return _shown_branch(given, beside) if is_tree(given) else given


def _newest_first(stamps: Sequence[Any]) -> bool:
    return all(isinstance(stamp, int | float) for stamp in stamps) and bool(stamps[0] > stamps[-1])


def _with_replies(said: Sequence[Any]) -> list[Any]:
    """Return messages with those that stand in the last one as its replies, of several the last."""
    said = list(said)
    while is_conversation(replies := next((said[-1][key] for key in REPLIES if key in said[-1]), None)):
        said.append(replies[-1])
    return said


def _shown_branch(tree: Mapping[str, Any], beside: Mapping[str, Any]) -> Sequence[Any]:
    name: Any = next((str(beside[one]) for one in LEAVES if one in beside), None)
    name = name if name in tree else list(tree)[-1]
    nodes: list[Mapping[str, Any]] = []
    while name in tree and len(nodes) < len(tree):
        nodes.append(tree[name])
        name = str(next(tree[name][key] for key in PARENTS if key in tree[name]))
    messages = (node.get("message", node) for node in reversed(nodes))
    return [
        {"from": speaker_of(one), "value": next((one[key] for key in SAID if key in one), None)}
        for one in messages
        if isinstance(one, dict)
    ]


def _text_in(content: Any) -> Any:
    """Return what is said; of parts that are all text the text, as in ChatGPT's exports and in Gemini's requests."""
    if isinstance(content, dict):  # of ChatGPT's exports: code and thoughts have no parts, and are not said to anybody
        content = content.get("parts") or ""
    if isinstance(content, list):
        content = [*map(plain_part, content)]
    if isinstance(content, list) and all(
        not isinstance(part, dict) or part.get("type", "text") == "text" for part in content
    ):
        return text_of([{"content": content}])
    return content
